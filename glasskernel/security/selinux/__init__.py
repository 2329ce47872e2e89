"""SELinux: types, a policy about them, and who asks it. Imported when the machine was started with security=selinux."""

"""sysfs: the kernel's objects and their attributes as files. kobject.py makes them, mount.py shows them."""

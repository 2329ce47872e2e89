"""Where traps enter the kernel. The top of the layers: everything below is called from here."""

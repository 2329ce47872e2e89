"""The PCI bus in sysfs, and Debian's lspci (A035)."""
from __future__ import annotations


def test_lspci_lists_the_network_card(run):
    done = run("lspci; lspci -v -s 00:03.0; lspci -n")
    text = done.stdout.decode()
    assert done.status == 0
    assert "00:00.0 Host bridge: Intel Corporation 440FX" in text
    assert "00:03.0 Ethernet controller: Intel Corporation 82540EM Gigabit Ethernet Controller (rev 02)" in text
    assert "IRQ 19" in text
    assert "Memory at febc0000 (32-bit, non-prefetchable) [size=128K]" in text
    assert "I/O ports at c000 [size=64]" in text
    assert "00:03.0 0200: 8086:100e (rev 02)" in text


def test_only_root_reads_all_of_the_configuration(boot):
    kernel = boot()
    path = "/sys/bus/pci/devices/0000:00:03.0/config"
    assert kernel.run(["wc", "-c", path]).stdout.split()[0] == b"256"
    assert kernel.run(["cat", path], uid=1000, cwd="/").stdout[:4] == bytes.fromhex("86800e10")
    assert len(kernel.run(["cat", path], uid=1000, cwd="/").stdout) == 64


def test_what_sysfs_says_of_the_card(run):
    text = run("cd /sys/devices/pci0000:00/0000:00:03.0; cat vendor device class irq modalias uevent; readlink subsystem")
    assert text.stdout.decode() == (
        "0x8086\n0x100e\n0x020000\n19\npci:v00008086d0000100Esv00008086sd0000001Ebc02sc00i00\n"
        "PCI_CLASS=20000\nPCI_ID=8086:100E\nPCI_SUBSYS_ID=8086:001E\nPCI_SLOT_NAME=0000:00:03.0\n"
        "MODALIAS=pci:v00008086d0000100Esv00008086sd0000001Ebc02sc00i00\n../../../bus/pci\n")

"""A domain as virt-manager leaves it, with much of what libvirt can say of one."""

RICH = """<?xml version='1.0' encoding='UTF-8'?>
<!-- WARNING: THIS IS AN AUTO-GENERATED FILE. -->
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>win/10 &amp; co</name>
  <uuid>4DEA24B3-1D52-D8F3-2516-782E98A23FA0</uuid>
  <genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>
  <title>A title</title>
  <description>Some text</description>
  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
      <libosinfo:os id="http://microsoft.com/win/10"/>
    </libosinfo:libosinfo>
    <app:note xmlns:app="http://example.org/app">ours</app:note>
    <app:place xmlns:app="http://example.org/app">/srv/secret</app:place>
  </metadata>
  <memory unit='GiB'>4</memory>
  <currentMemory unit='KiB'>2097152</currentMemory>
  <vcpu placement='static' cpuset='0-3' current='2'>4</vcpu>
  <iothreads>2</iothreads>
  <cputune><vcpupin vcpu='0' cpuset='1'/><shares>2048</shares></cputune>
  <resource><partition>/machine</partition></resource>
  <sysinfo type='smbios'>
    <bios><entry name='vendor'>LENOVO</entry></bios>
    <system><entry name='manufacturer'>Fedora</entry><entry name='serial'>S-1</entry>
      <entry name='uuid'>4dea24b3-1d52-d8f3-2516-782e98a23fa0</entry>
      <entry name='colour'>red</entry></system>
    <baseBoard><entry name='asset'>A1</entry></baseBoard>
    <chassis><entry name='sku'>K1</entry></chassis>
    <oemStrings><entry>one</entry><entry>two</entry></oemStrings>
  </sysinfo>
  <os firmware='efi'>
    <type arch='x86_64' machine='pc-q35-6.2'>hvm</type>
    <firmware>
      <feature enabled='yes' name='enrolled-keys'/><feature enabled='yes' name='secure-boot'/>
    </firmware>
    <loader readonly='yes' secure='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.secboot.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS.ms.fd'>/var/lib/libvirt/qemu/nvram/w.fd</nvram>
    <kernel>/boot/vmlinuz</kernel>
    <boot dev='hd'/>
    <bootmenu enable='yes' timeout='3000'/>
    <smbios mode='sysinfo'/>
  </os>
  <features>
    <acpi/><apic/>
    <hyperv mode='custom'><relaxed state='on'/><spinlocks state='on' retries='8191'/></hyperv>
    <kvm><hidden state='on'/></kvm>
    <vmport state='off'/>
    <smm state='on'/>
  </features>
  <cpu mode='custom' match='exact' check='full'>
    <model fallback='forbid'>Haswell-noTSX-IBRS</model>
    <vendor>Intel</vendor>
    <topology sockets='1' dies='1' cores='2' threads='2'/>
    <feature policy='require' name='pclmuldq'/>
    <feature policy='disable' name='lahf_lm'/>
    <feature policy='optional' name='aes'/>
    <numa><cell id='0' cpus='0-3' memory='4' unit='GiB'/></numa>
  </cpu>
  <clock offset='timezone' timezone='Europe/Berlin'>
    <timer name='rtc' tickpolicy='catchup'/><timer name='hpet' present='no'/>
  </clock>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>preserve</on_crash>
  <pm><suspend-to-mem enabled='no'/></pm>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap'/>
      <source file='/var/lib/libvirt/images/win10.qcow2'/>
      <backingStore type='file'><format type='qcow2'/><source file='/base.img'/><backingStore/>
      </backingStore>
      <target dev='sda' bus='sata' rotation_rate='1'/>
      <iotune><total_bytes_sec>10000000</total_bytes_sec></iotune>
      <serial>ROOT-1</serial>
      <wwn>5000c50015ea71ad</wwn>
      <address type='drive' controller='0' bus='0' target='0' unit='2'/>
    </disk>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/vg/data'/>
      <target dev='vdb' bus='virtio'/>
      <shareable/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
    <disk type='volume' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source pool='default' volume='third.qcow2'/>
      <target dev='sdb' bus='scsi'/>
      <address type='drive' controller='1' bus='0' target='3' unit='0'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <auth username='libvirt'><secret type='ceph' uuid='1'/></auth>
      <source protocol='rbd' name='pool/image'><host name='mon1.example.org' port='6321'/></source>
      <target dev='vdc' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/>
      <target dev='sdc' bus='sata'/>
      <readonly/>
      <address type='drive' controller='0' bus='0' target='0' unit='4'/>
    </disk>
    <disk type='file' device='floppy'>
      <source file='/tmp/f.img'/><target dev='fda' bus='fdc'/>
    </disk>
    <controller type='usb' index='0' model='qemu-xhci' ports='15'>
      <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>
    </controller>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='1' model='pcie-root-port'>
      <model name='pcie-root-port'/><target chassis='1' port='0x10'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0' multifunction='on'/>
    </controller>
    <controller type='pci' index='2' model='pcie-root-port'>
      <model name='pcie-root-port'/><target chassis='2' port='0x11'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x1'/>
    </controller>
    <controller type='pci' index='4' model='pcie-root-port'>
      <model name='pcie-root-port'/><target chassis='4' port='0x13'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x3'/>
    </controller>
    <controller type='sata' index='0'>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x1f' function='0x2'/>
    </controller>
    <controller type='scsi' index='0' model='lsilogic'/>
    <controller type='scsi' index='1' model='virtio-scsi'><driver queues='4'/></controller>
    <controller type='virtio-serial' index='0'/>
    <interface type='bridge'>
      <mac address='52:54:00:12:34:56'/>
      <source bridge='br0'/>
      <target dev='vnet0'/>
      <model type='virtio'/>
      <driver name='vhost' queues='4'/>
      <mtu size='9000'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </interface>
    <interface type='direct'>
      <mac address='52:54:00:12:34:57'/>
      <source dev='eth0' mode='bridge'/>
      <model type='e1000e'/>
      <link state='down'/>
    </interface>
    <interface type='hostdev'><source><address type='pci' bus='0x05' slot='0x10'/></source>
    </interface>
    <serial type='file'><source path='/var/log/vm.log'/>
      <target type='isa-serial' port='0'><model name='isa-serial'/></target></serial>
    <console type='file'><source path='/var/log/vm.log'/><target type='serial' port='0'/></console>
    <channel type='unix'><source mode='bind' path='/var/lib/libvirt/x'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
    <input type='tablet' bus='usb'/>
    <input type='mouse' bus='ps2'/>
    <input type='keyboard' bus='usb'/>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'>
      <encryption secret='6dd3e4a5-1d76-44ce-961f-f119f5aad935'/></backend></tpm>
    <graphics type='spice' autoport='yes' passwd='hush'><image compression='off'/></graphics>
    <sound model='ich9'>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x1b' function='0x0'/></sound>
    <audio id='1' type='spice'/>
    <video><model type='qxl' ram='65536' vram='65536' vgamem='16384' heads='1' primary='yes'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/></video>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <source><address domain='0x0000' bus='0x06' slot='0x00' function='0x0'/></source></hostdev>
    <filesystem type='mount'><source dir='/srv'/><target dir='share'/></filesystem>
    <redirdev bus='usb' type='spicevmc'/>
    <watchdog model='i6300esb' action='reset'/>
    <memballoon model='virtio'>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x05' function='0x0'/></memballoon>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <panic model='hyperv'/>
    <newfangled thing='1'/>
  </devices>
  <seclabel type='dynamic' model='selinux'/>
  <qemu:commandline><qemu:arg value='-drive'/><qemu:arg value='file=/etc/shadow'/>
  </qemu:commandline>
</domain>
"""

PLAIN = """<domain type='qemu'>
  <name>plain</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/elsewhere/disk.raw'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    %s
  </devices>
  %s
</domain>
"""


def plain(devices: str = "", more: str = "") -> bytes:
    """A small domain with these devices and elements besides."""
    return (PLAIN % (devices, more)).encode()

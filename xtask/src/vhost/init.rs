//! The first program in the virtual host: it loads the real KVM, puts the root together,
//! runs the command, and tells how it ended.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::kernel::Kernel;
use super::tool;

/// Modules, in the order in which they are loaded.
const MODULES: [&str; 8] = [
    "drivers/block/virtio_blk",
    "lib/libcrc32c",
    "fs/netfs/netfs",
    "fs/erofs/erofs",
    "fs/overlayfs/overlay",
    "virt/lib/irqbypass",
    "arch/x86/kvm/kvm",
    "arch/x86/kvm/kvm-amd",
];

/// Before the root is there.
const EARLY: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs none /dev
exec > /dev/console 2>&1
mount -t proc none /proc
for module in $(cat /modules/order); do insmod /modules/$module || echo \"no module $module\"; done
mount -t erofs -o ro /dev/vda /lower && mount -t tmpfs -o size=80% none /rw || poweroff -f
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work none /root || poweroff -f
umount /proc
mount --move /dev /root/dev
exec switch_root /root /vhost/init
";

/// In the root. KVM patches its own code when the first virtual machine with a local APIC
/// that is switched off comes, and when the last goes; an emulated machine with several
/// processors can stumble over that (its translated code is older than the patch). So one
/// such machine is held all the time.
const LATE: &str = "#!/vhost/bin/busybox sh
export PATH=/vhost/bin:/bin:/usr/bin HOME=/root TINE_IMAGES=/vhost/images TERM=dumb
mount -t proc none /proc
mount -t sysfs none /sys
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none /tmp
mount -t tmpfs none /run
ip link set lo up
ulimit -n 65536
xtask hold-kvm < /dev/null &
while [ ! -e /run/kvm-held ]; do sleep 0.05; done
cd /root
sh /vhost/command < /dev/null > /dev/vport0p1 2> /dev/vport0p2
echo $? > /dev/vport0p3
poweroff -f
";

/// The script for the root.
pub fn late() -> &'static str {
    LATE
}

/// Makes the initramfs at `file`.
pub fn initramfs(kernel: &Kernel, file: &Path) -> Result<PathBuf> {
    let tree = file.with_extension("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).context("an old initramfs can't be removed")?;
    }
    for directory in ["bin", "dev", "proc", "modules", "lower", "rw", "root"] {
        fs::create_dir_all(tree.join(directory)).context("the initramfs has no place")?;
    }
    fs::copy(busybox()?, tree.join("bin/busybox")).context("busybox can't be copied")?;
    let mut order = String::new();
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        let packed = kernel.modules.join(format!("kernel/{module}.ko.xz"));
        let plain = tool(Command::new("xz").arg("-dc").arg(&packed), "xz-utils")?;
        fs::write(tree.join(format!("modules/{name}.ko")), plain)?;
        order += &format!("{name}.ko\n");
    }
    fs::write(tree.join("modules/order"), order)?;
    write_program(&tree.join("init"), EARLY)?;
    let mut pack = Command::new("sh");
    pack.args(["-c", "find . | cpio -o -H newc --quiet"]).current_dir(&tree);
    fs::write(file, tool(&mut pack, "cpio")?).context("the initramfs can't be written")?;
    Ok(file.to_path_buf())
}

/// Writes a program's text.
pub fn write_program(file: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(file, text).with_context(|| format!("{} can't be written", file.display()))?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A busybox that needs no libraries.
pub fn busybox() -> Result<&'static Path> {
    let busybox = Path::new("/bin/busybox");
    anyhow::ensure!(
        busybox.exists(),
        "/bin/busybox is missing; install it: apt-get install busybox-static"
    );
    Ok(busybox)
}

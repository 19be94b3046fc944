package regular

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrKernel says that a file is the kernel's: what is read there is its answer, and
// what is written a command to it.
var ErrKernel = errors.New("is not a file on disk (procfs, sysfs or another of the kernel's)")

// configfs and fusectl have no name in package unix: CONFIGFS_MAGIC of
// fs/configfs/mount.c, FUSE_CTL_SUPER_MAGIC of fs/fuse/control.c.
const (
	configfs = 0x62656570
	fusectl  = 0x65735543
)

// kernels are the file systems whose regular files are no files (statfs(2)).
var kernels = []int64{
	unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.SECURITYFS_MAGIC,
	unix.AAFS_MAGIC, unix.SELINUX_MAGIC, unix.SMACK_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.BPF_FS_MAGIC,
	unix.EFIVARFS_MAGIC, unix.BINFMTFS_MAGIC, unix.PSTOREFS_MAGIC, unix.NSFS_MAGIC, unix.RDTGROUP_SUPER_MAGIC,
	unix.XENFS_SUPER_MAGIC, configfs, fusectl,
}

// OnDisk returns ErrKernel if the open file fd, O_PATH or not, is the kernel's. Many
// of its files judge who reads or writes, which is root, and not who opened them.
func OnDisk(fd int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	if slices.Contains(kernels, int64(st.Type)) { //nolint:unconvert // an int32 on other machines
		return ErrKernel
	}
	return nil
}

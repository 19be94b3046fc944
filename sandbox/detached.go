package sandbox

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// BindFlags are what a DetachedBind allows. nosuid and nodev are always set.
type BindFlags struct {
	Writable bool
	Exec     bool
}

// DetachedBind makes a mount of what f refers to (a directory or a file, an
// O_PATH descriptor is enough) that is not attached anywhere, without the
// mounts below it. The stage attaches it inside the sandbox: however the path
// is moved meanwhile, the mount is of the inode that was checked (KERNEL 14).
// The caller closes both files; the mount is gone with the last descriptor if
// it was never attached. Needs Linux 5.12 and CAP_SYS_ADMIN.
func DetachedBind(f *os.File, flags BindFlags) (*os.File, error) {
	fd, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, bindError(f, "open_tree", err)
	}
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE,
	}
	if !flags.Writable {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if !flags.Exec {
		attr.Attr_set |= unix.MOUNT_ATTR_NOEXEC
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(fd)
		return nil, bindError(f, "mount_setattr", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func bindError(f *os.File, call string, err error) error {
	if errors.Is(err, unix.ENOSYS) {
		err = fmt.Errorf("%w: %s needs Linux 5.12", ErrNotSupported, call)
	}
	return fmt.Errorf("bind %s: %s: %w", f.Name(), call, err)
}

package sandbox

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// harden sets nosuid, nodev and noexec on everything mounted at and below
// /proc and /sys and on the masks, which libcontainer mounts without them. The
// first process waits for its fifo meanwhile, so nothing of the vassal has run.
func (st *starting) harden() error {
	st.box.mu.Lock() // the supervisor closes the descriptor
	defer st.box.mu.Unlock()
	if st.box.pidfd < 0 {
		return ifGone(true)
	}
	err := inMounts(st.box.pidfd, func() error { return hardenMounts(st.spec.Masked, st.spec.Users != nil) })
	if err != nil {
		return fmt.Errorf("harden the mounts: %w", err)
	}
	return nil
}

func hardenMounts(masked []string, userNS bool) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	for _, top := range []string{"/proc", "/sys"} {
		if err := unix.MountSetattr(unix.AT_FDCWD, top, unix.AT_RECURSIVE, &attr); err != nil {
			return fmt.Errorf("%s: %w", top, err)
		}
	}
	if userNS { // its devices are binds of the host's
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC}
		if err := unix.MountSetattr(unix.AT_FDCWD, "/dev", unix.AT_RECURSIVE, &attr); err != nil {
			return fmt.Errorf("/dev: %w", err)
		}
	}
	for _, path := range masked {
		err := unix.MountSetattr(unix.AT_FDCWD, path, 0, &attr)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mask %s: %w", path, err)
		}
	}
	return nil
}

package network

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// Inside runs do in the network namespace ns, on a thread that ends with it:
// nothing of this process stays there but the sockets that do made.
func Inside(ns *os.File, do func() error) error {
	return aside(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns", err)
		}
		return do()
	})
}

// aside runs do on a thread of its own, which ends with it.
func aside(do func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		err = do()
	}()
	<-done
	return err
}

// Of opens the network namespace of process pid.
func Of(pid int) (*os.File, error) { return os.Open(fmt.Sprintf("/proc/%d/ns/net", pid)) }

// hold makes a network namespace and mounts it on path, which keeps it.
func hold(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW, 0o400)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return aside(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
		return nil
	})
}

// held opens the namespace that hold mounted on path; nil: there is none.
func held(path string) *os.File {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) != nil || st.Type != unix.NSFS_MAGIC {
		f.Close()
		return nil
	}
	return f
}

// drop undoes hold.
func drop(path string) error {
	for held := true; held; { // once for each time it was mounted
		switch err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
		case nil:
		case unix.EINVAL, unix.ENOENT:
			held = false
		default:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// sysctl writes a setting below /proc/sys/net of the calling thread's
// namespace, unless it has that value.
func sysctl(name, value string) error {
	path := filepath.Join("/proc/sys/net", name)
	if old, err := os.ReadFile(path); err == nil && string(old) == value+"\n" {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}

func readSysctl(name string) string {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net", name))
	if err != nil || len(b) == 0 {
		return ""
	}
	return string(b[:len(b)-1])
}

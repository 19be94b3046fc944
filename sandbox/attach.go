package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// binds are the host's paths in the composed root, in the order of mounting
// (CONTRACT 4).
func (st *starting) binds() []Mount {
	ms := st.cgroupBinds()
	if !st.spec.Bare {
		for _, p := range private {
			ms = append(ms, Mount{Source: st.v.private(p.dir), Target: p.target, Writable: true, Exec: true})
		}
	}
	ms = append(ms, st.spec.Root...)
	for _, b := range []Mount{
		{Source: st.m.cfg.Stage, Target: StagePath, Exec: true},
		{Source: st.m.cfg.Core, Target: CorePath, Exec: true},
	} {
		if b.Source != "" {
			ms = append(ms, b)
		}
	}
	return ms
}

// cgroupBinds shows the generation its own cgroup, read-only, where runtimes
// look for their limits. A JVM believes none of them unless cpuset is there too
// (cgroupSubsystem_linux.cpp). On v2 libcontainer mounts it.
func (st *starting) cgroupBinds() []Mount {
	var ms []Mount
	seen := map[string]bool{}
	for _, c := range []string{"memory", "cpu", "cpuacct", "cpuset", "pids"} {
		mount := st.m.trees.v1[c]
		if mount == "" || seen[mount] {
			continue
		}
		seen[mount] = true
		ms = append(ms, Mount{Source: filepath.Join(mount, st.box.cgroup), Target: mount})
	}
	return ms
}

// ownBinds tells who mounts the binds: this package or libcontainer. Most of the
// mounts of a sandbox are binds, and libcontainer needs a hundred system calls
// for each: it must expect that a stranger's root has something in the way. Here
// the root is ours until its first process runs. Root of a user namespace has to
// mount them by itself: nobody else can make mount points in file systems that
// it mounted.
func (st *starting) ownBinds() bool { return st.spec.Users == nil }

// attachBinds mounts the binds in the mount namespace of pid, where libcontainer
// has mounted all else and waits.
func (st *starting) attachBinds(pid int) error {
	if !st.ownBinds() {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	return inMounts(fd, func() error {
		root, err := unix.Open(st.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: st.root, Err: err}
		}
		defer unix.Close(root)
		for _, b := range st.binds() {
			st.looksUp(b.Source)
			if err := b.attach(root); err != nil {
				return err
			}
		}
		st.looksUp("")
		return nil
	})
}

// attach mounts b in the tree root.
func (b *Mount) attach(root int) error {
	tree, err := detach(unix.AT_FDCWD, b.Source, b.Source, BindFlags{Writable: b.Writable, Exec: b.Exec, Recursive: b.Recursive})
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	var stat unix.Stat_t
	if err := unix.Fstat(tree, &stat); err != nil {
		return fmt.Errorf("bind %s: %w", b.Source, err)
	}
	to, err := mountPoint(root, b.Target, stat.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return fmt.Errorf("bind %s: mount point %s: %w", b.Source, b.Target, err)
	}
	defer unix.Close(to)
	if err := unix.MoveMount(tree, "", to, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("bind %s: move_mount to %s: %w", b.Source, b.Target, err)
	}
	return nil
}

// mountPoint opens target in the tree root, and makes it, a directory or an
// empty file, if it is not there. No link leads out of the tree.
func mountPoint(root int, target string, isDir bool) (int, error) {
	name := strings.TrimPrefix(path.Clean("/"+target), "/")
	fd, err := openIn(root, name, 0)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	dir := path.Dir(name)
	at, err := openIn(root, dir, unix.O_DIRECTORY)
	for errors.Is(err, unix.ENOENT) && dir != "." {
		dir = path.Dir(dir)
		at, err = openIn(root, dir, unix.O_DIRECTORY)
	}
	if err != nil {
		return -1, err
	}
	if err := makeBelow(at, strings.TrimPrefix(name, dir+"/"), isDir); err != nil {
		return -1, err
	}
	return openIn(root, name, 0)
}

func openIn(root int, name string, flags uint64) (int, error) {
	return unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
}

// inMounts calls do in the mount namespace of the process that pidfd is.
func inMounts(pidfd int, do func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread is in another mount namespace from here
		// on, and ends with the goroutine. It is not the main one (Init).
		runtime.LockOSThread()
		err := enterMounts(pidfd)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

func enterMounts(pidfd int) error {
	// The kernel lets no thread change its mount namespace that shares its
	// root with others.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(pidfd, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return nil
}

package stage

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"liege/vassal/action"
)

// mountAttrs are the flags that every mount has of its own.
var mountAttrs = map[string]uint64{
	"ro": unix.MOUNT_ATTR_RDONLY, "nosuid": unix.MOUNT_ATTR_NOSUID, "nodev": unix.MOUNT_ATTR_NODEV,
	"noexec": unix.MOUNT_ATTR_NOEXEC, "noatime": unix.MOUNT_ATTR_NOATIME,
}

// mount runs a mount hook through the descriptor calls of Linux 5.2 and 5.12:
// no path is resolved twice, and a bind has its flags before it is seen.
func (r *run) mount(c action.Call) (err error) {
	p, err := r.walk(c.Path, true)
	if err != nil {
		return noPlace(c, err)
	}
	defer func() { err = errors.Join(err, p.close()) }()
	to, err := p.open(unix.O_PATH)
	if err != nil {
		return noPlace(c, fmt.Errorf("%s: %w", c.Path, err))
	}
	defer func() { err = errors.Join(err, unix.Close(to)) }()
	has := func(flag string) bool { return slices.Contains(c.Flags, flag) }
	attrs := attributes(c)
	switch {
	case has("remount"):
		return setAttr(to, has("rec"), &unix.MountAttr{Attr_set: attrs})
	case has("bind"):
		return r.bind(c, to, attrs, has("rec"))
	case has("move"):
		from, err := r.source(c.Source, 0)
		if err != nil {
			return err
		}
		return errors.Join(moveMount(from, to), unix.Close(from))
	case has("private"):
		return setAttr(to, has("rec"), &unix.MountAttr{Propagation: unix.MS_PRIVATE})
	}
	return r.newMount(c, to, attrs)
}

// noPlace adds to err, of the directory that c mounts on, what to write where there
// is none: a root is made of what the file asks for, and read-only by then.
func noPlace(c action.Call, err error) error {
	var line string
	switch {
	case !errors.Is(err, unix.ENOENT):
		return err
	case c.FSType == "tmpfs":
		line = "tmpfs = " + c.Path
	case slices.Contains(c.Flags, "bind"):
		line = fmt.Sprintf("bind = %s:%s", c.Source, c.Path)
	default:
		return err
	}
	return fmt.Errorf("%w: a mount needs a directory that is there; hint: the line %q makes it, and needs no hook", err, line)
}

// attributes are those asked for, and nosuid and nodev, which every mount of a
// sandbox has. The terminals of a devpts are devices.
func attributes(c action.Call) uint64 {
	attrs := uint64(unix.MOUNT_ATTR_NOSUID)
	if c.FSType != "devpts" {
		attrs |= unix.MOUNT_ATTR_NODEV
	}
	for _, f := range c.Flags {
		attrs |= mountAttrs[f]
	}
	return attrs
}

func setAttr(fd int, recursive bool, attr *unix.MountAttr) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if attr.Attr_set&unix.MOUNT_ATTR_NOATIME != 0 {
		attr.Attr_clr |= unix.MOUNT_ATTR__ATIME // one of the atime modes at a time
	}
	if err := unix.MountSetattr(fd, "", flags, attr); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}

func (r *run) bind(c action.Call, to int, attrs uint64, recursive bool) error {
	flags := uint(unix.OPEN_TREE_CLONE)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	from, err := r.source(c.Source, flags)
	if err != nil {
		return err
	}
	err = setAttr(from, recursive, &unix.MountAttr{Attr_set: attrs, Propagation: unix.MS_PRIVATE})
	if err == nil {
		err = moveMount(from, to)
	}
	return errors.Join(err, unix.Close(from))
}

// source opens the mount at path; with OPEN_TREE_CLONE a detached copy of it.
func (r *run) source(path string, flags uint) (int, error) {
	p, err := r.walk(path, true)
	if err != nil {
		return -1, err
	}
	fd, err := p.open(unix.O_PATH)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("%s: %w", path, err), p.close())
	}
	tree, err := unix.OpenTree(fd, "", flags|unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("%s: %w", path, err), unix.Close(fd), p.close())
	}
	return tree, errors.Join(unix.Close(fd), p.close())
}

// newMount mounts a file system.
func (r *run) newMount(c action.Call, to int, attrs uint64) error {
	fs, err := unix.Fsopen(c.FSType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("file system %s: %w", c.FSType, err)
	}
	err = configure(fs, c, r.p.TmpLabel)
	if err != nil {
		return errors.Join(fmt.Errorf("file system %s: %w", c.FSType, err), unix.Close(fs))
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attrs))
	if err != nil {
		return errors.Join(fmt.Errorf("fsmount: %w", err), unix.Close(fs))
	}
	return errors.Join(moveMount(mnt, to), unix.Close(mnt), unix.Close(fs))
}

// configure passes source, data and the flags that belong to the file system. A
// tmpfs whose data names no SELinux context gets tmpLabel, so that the vassal
// may use it as it may its /tmp; empty: none.
func configure(fs int, c action.Call, tmpLabel string) error {
	if err := unix.FsconfigSetString(fs, "source", c.Source); err != nil {
		return fmt.Errorf("source %s: %w", c.Source, err)
	}
	for _, f := range []string{"ro", "sync", "dirsync", "mandlock"} {
		if !slices.Contains(c.Flags, f) {
			continue
		}
		if err := unix.FsconfigSetFlag(fs, strings.Replace(f, "mandlock", "mand", 1)); err != nil {
			return fmt.Errorf("flag %s: %w", f, err)
		}
	}
	for opt := range strings.SplitSeq(c.Text, ",") {
		key, value, pair := strings.Cut(opt, "=")
		var err error
		switch {
		case opt == "":
		case pair:
			err = unix.FsconfigSetString(fs, key, value)
		default:
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return fmt.Errorf("option %s: %w", key, err)
		}
	}
	if c.FSType == "tmpfs" && tmpLabel != "" && !strings.Contains(c.Text, "context=") {
		if err := unix.FsconfigSetString(fs, "rootcontext", tmpLabel); err != nil {
			return fmt.Errorf("option rootcontext: %w", err)
		}
	}
	return unix.FsconfigCreate(fs)
}

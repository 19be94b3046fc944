package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"liege/emperor/resolve"
	"liege/sandbox"
	"liege/sandbox/stage"
	"liege/vassal"
)

// binds makes the mounts of the composed root. What a tenant can move is
// opened once, compared with what was resolved, and handed over as a mount
// that is attached nowhere yet (KERNEL 14).
func (s *start) binds(ctx context.Context) error {
	r := s.p.Result
	s.spec.Plan = r.Plan
	s.spec.Plan.Attach = slices.Clone(r.Plan.Attach)
	if err := s.tree(); err != nil {
		return err
	}
	for _, b := range r.System {
		s.spec.Root = append(s.spec.Root, sandbox.Mount{Source: b.Source, Target: b.Target, Exec: true, File: !b.Dir})
	}
	for _, b := range r.Binds {
		// What a tenant's child said about a path is a claim, so of a tenant's
		// file nothing is mounted by its name.
		if !b.Tenant && !b.IDMap && s.p.Config.Trust.Operator {
			s.spec.Root = append(s.spec.Root, sandbox.Mount{Source: b.Source, Target: b.Target, Writable: b.Writable, Exec: !b.NoExec, File: !b.Dir, Recursive: b.Recurse})
			continue
		}
		if err := s.detached(ctx, b); err != nil {
			return mountProblem(b.At, b.Why, b.Source, err)
		}
	}
	for _, t := range r.Tmpfs {
		if err := s.tmpfs(t); err != nil {
			return err
		}
	}
	for _, k := range r.Links {
		s.spec.Files = append(s.spec.Files, sandbox.GenFile{Path: k.Path, Link: k.Target})
	}
	for _, f := range r.Files {
		s.spec.Files = append(s.spec.Files, sandbox.GenFile{Path: f.Path, Text: []byte(f.Text), Mode: f.Mode})
	}
	s.spec.Masked, s.spec.HidePID, s.spec.TimeNS = r.Masked, r.Config.Jail.HidePID, r.Config.Jail.TimeNS.Line > 0
	if m := r.Maps; m != nil {
		s.spec.Users = &sandbox.IDMaps{Root: m.Root, Users: m.Users, Groups: m.Groups}
	}
	return nil
}

// tree opens the directory of another system. The line is the operator's, so
// it is opened as root, whoever owns the vassal's file.
func (s *start) tree() error {
	b := s.p.Result.Root
	if b.Source == "" {
		return nil
	}
	s.l.at("mount", b.Source)
	f, err := openReal(b.Source)
	if err == nil {
		s.temp = append(s.temp, f)
		s.spec.Tree = f
		err = same(f, b)
	}
	if err != nil {
		return mountProblem(b.At, b.Why, b.Source, err)
	}
	return nil
}

// tmpfs makes an empty file system of the app's own.
func (s *start) tmpfs(t vassal.Tmpfs) error {
	f, err := sandbox.DetachedTmpfs(t.Size, s.p.Result.UID, s.p.Result.GID, s.spec.MountLabel)
	if err != nil {
		return mountProblem(t.At, "tmpfs", t.Target, err)
	}
	s.attach(f, t.Target, t.At)
	return nil
}

// attach hands a detached mount to the stage.
func (s *start) attach(mount *os.File, target string, at vassal.Origin) {
	s.temp = append(s.temp, mount)
	s.spec.Plan.Attach = append(s.spec.Plan.Attach, stage.Attach{Mount: len(s.spec.Detached), Target: target, At: at})
	s.spec.Detached = append(s.spec.Detached, mount)
}

// mountProblem is err about what a line brings.
func mountProblem(at vassal.Origin, key, what string, err error) error {
	return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoSuchPath, File: at.File, Line: at.Line, Key: key, Step: "mount",
		Message: fmt.Sprintf("%s: %v", what, err)}
}

// same compares what was opened with what was resolved.
func same(f *os.File, b resolve.Bind) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Dev != b.Device || st.Ino != b.Inode {
		return errors.New("another file was put there while it was looked at")
	}
	return nil
}

func (s *start) detached(ctx context.Context, b resolve.Bind) error {
	s.l.at("mount", b.Source)
	f, err := s.open(ctx, b.Source, b.Led)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := same(f, b); err != nil {
		return err
	}
	flags := sandbox.BindFlags{Writable: b.Writable, Exec: !b.NoExec, Recursive: b.Recurse}
	if b.IDMap {
		flags.IDMap = &sandbox.IDMap{DiskUID: b.UID, DiskGID: b.GID, UID: s.p.Result.UID, GID: s.p.Result.GID}
	}
	m, err := sandbox.DetachedBind(f, flags)
	if err != nil {
		return err
	}
	s.attach(m, b.Target, b.At)
	return nil
}

// open opens a path whose links are all resolved: with the vassal's ids for a
// tenant's file, and for a path that a tenant's link led to, since root would
// follow it where the tenant cannot go.
func (s *start) open(ctx context.Context, path string, led bool) (*os.File, error) {
	if led || !s.p.Config.Trust.Operator {
		user, err := s.asUser(ctx)
		if err != nil {
			return nil, err
		}
		f, real, err := user.Open(path)
		if err == nil && real != path {
			f.Close()
			return nil, errors.New("it is a link now")
		}
		return f, err
	}
	return openReal(path)
}

// openReal opens a path that has no links.
func openReal(path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

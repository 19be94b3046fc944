package launch

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"liege/emperor"
	"liege/emperor/quota"
	"liege/emperor/resolve"
	"liege/vassal"
)

// quota bounds what the app's directory takes on disk, before anything of the
// generation runs. The open directory stays with the instance, which measures
// by it.
func (s *start) quota(ctx context.Context) error {
	h, l := s.l.host, s.p.Result.Config.Limits
	limit := quota.Limit{Bytes: l.DiskQuota, Inodes: l.InodeQuota}
	if !limit.Any() {
		if err := h.Quotas.Lift(s.l.name); err != nil {
			return s.quotaProblem(fmt.Errorf("a quota that no line asks for any more is still in force: %w", err))
		}
		return nil
	}
	s.l.at("quota", s.p.Result.Dir)
	dir, err := s.appDir(ctx)
	if err != nil {
		return s.quotaProblem(err)
	}
	s.temp = append(s.temp, dir)           // the instance takes a copy
	s.l.unbounded("quota", s.p.Result.Dir) // it walks through all that is there
	if err := h.Quotas.Apply(ctx, s.l.name, dir, limit); err != nil {
		return s.quotaProblem(err)
	}
	s.bounded = dir
	return nil
}

// appDir opens the app's directory as it was bound. A tenant names only what is
// its own: else it would have another one's files counted, and bounded.
func (s *start) appDir(ctx context.Context) (*os.File, error) {
	r := s.p.Result
	b, ok := r.Written()
	if !ok {
		return nil, errors.New("the app can write to no directory of its own")
	}
	f, err := s.open(ctx, r.Dir, b.Led)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(f.Fd()), &st); err == nil && b.Source == r.Dir {
		err = same(f, b)
	}
	if err == nil && (b.Led || !s.p.Config.Trust.Operator) && int(st.Uid) != r.UID {
		err = fmt.Errorf("belongs to uid %d, not to uid %d, whom the vassal runs as", st.Uid, r.UID)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// quotaProblem is err about the line that asks for the quota.
func (s *start) quotaProblem(err error) error {
	l := s.p.Result.Config.Limits
	p := &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoLimit, File: l.DiskQuotaAt.File, Line: l.DiskQuotaAt.Line, Key: "disk-quota", Step: "quota"}
	if l.DiskQuota == 0 && l.InodeQuota > 0 {
		p.File, p.Line, p.Key = l.InodeQuotaAt.File, l.InodeQuotaAt.Line, "inode-quota"
	}
	p.Message = fmt.Sprintf("%s cannot be bounded: %v", s.p.Result.Dir, err)
	if m, ok := errors.AsType[*quota.Missing](err); ok {
		p.Hint = m.Hint
	}
	if errors.Is(err, quota.ErrTaken) {
		p.Hint = "one directory has one quota: give each vassal a directory that holds no other's"
	}
	return p
}

// measured gives the bounded directory to the instance, for as long as it lives.
func (s *start) measured(in *instance) error {
	if s.bounded == nil {
		return nil
	}
	fd, err := unix.FcntlInt(s.bounded.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	in.bounded = os.NewFile(uintptr(fd), s.bounded.Name())
	s.undo = append(s.undo, func() { in.bounded.Close() })
	return nil
}

// disk is what the kernel counts in the app's directory; nil: it has no quota.
func (in *instance) disk() *emperor.Disk {
	if in.bounded == nil {
		return nil
	}
	u, err := in.l.host.Quotas.Usage(in.l.name, in.bounded)
	if err != nil {
		return nil // at the next look
	}
	return &emperor.Disk{Bytes: u.Bytes, Inodes: u.Inodes, BytesMax: u.Limit.Bytes, InodesMax: u.Limit.Inodes}
}

// NewProjects keeps the projects of all vassals in an Emperor's state directory;
// lives says whether there is such a vassal.
func NewProjects(stateDir string, lives func(vassal.Name) bool) *quota.Projects {
	ids := resolve.NewAutoUIDs(stateDir+"/projects.json", 0)
	return quota.New(quota.Config{File: stateDir + "/quotas.json", ID: ids.UID, Owner: ids.Owner, Lives: lives})
}

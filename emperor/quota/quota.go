// Package quota bounds what a vassal's directory takes on disk, by the project
// quota of its file system (ext4, xfs). Every vassal has a project of its own:
// a number that its directory and all that is in it carry, and that what is
// made in it inherits.
//
//	err := quota.Probe(dir)               // may it be bounded? for a check
//	p := quota.New(quota.Config{…})
//	err = p.Apply(ctx, name, open, quota.Limit{Bytes: 5 << 30})
//	u, err := p.Usage(name, open)
//	err = p.Lift(name)                    // the line is gone
//
// # What it promises
//
// When Apply returns nil the kernel counts everything below the directory, on
// its file system, and refuses what goes over the limit with EDQUOT. What it
// cannot bound is an error, never a smaller promise. Numbers are remembered and
// never given to a second vassal: files of the first may still carry them.
//
// Root walks through a directory in which a tenant writes at the same time: each
// entry is opened once, beneath the descriptor of its directory, no link is
// followed, no other file system entered, nothing but the number of the project
// is changed. What is made behind the walk's back inherits the number, and the
// kernel lets nothing be moved from outside into a directory that has been
// marked (EXDEV: mv copies it).
//
// # Known limits
//
// The kernel lets the owner of a file change its project, in the initial user
// namespace. Inside a vassal the system call filter refuses that; a user who
// also has a shell on the host can leave the quota. FIFOs, sockets, devices and
// links that were there before the quota keep their project: they hold no data.
package quota

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// Limit is what a directory may take; zero: as much as there is.
type Limit struct {
	Bytes  int64
	Inodes int64 // files and directories
}

// Any tells whether anything is bounded.
func (l Limit) Any() bool { return l.Bytes > 0 || l.Inodes > 0 }

// Usage is what a directory takes, and may.
type Usage struct {
	Bytes, Inodes int64
	Limit         Limit
}

// Missing says why a directory cannot be bounded.
type Missing struct{ Why, Hint string }

func (m *Missing) Error() string { return m.Why }

// ErrTaken is what is in a directory that has another project.
var ErrTaken = errors.New("has another quota")

// Config is what Projects needs.
type Config struct {
	File  string                           // where it remembers which directories are marked
	ID    func(vassal.Name) (int, error)   // the vassal's project; the same one for ever
	Owner func(id int) (vassal.Name, bool) // whose project that is
	Lives func(vassal.Name) bool           // whether there still is such a vassal
}

// Projects are the projects of all vassals. Its methods may be called at the
// same time for different vassals.
type Projects struct {
	cfg Config

	mu     sync.Mutex
	marked map[vassal.Name]place // nil: not read yet
}

// place is a directory in which everything carries the vassal's project.
type place struct {
	Path   string `json:"path"`
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// New returns Projects.
func New(c Config) *Projects { return &Projects{cfg: c} }

// Probe returns nil if what is in the directory at path could be bounded, else
// why not, where the file system is to blame a *Missing. It changes nothing.
func Probe(path string) error {
	f, err := open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return enforced(int(f.Fd()))
}

// open opens a path without links, only to know where it lies.
func open(path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Apply bounds what is in the open directory dir (O_PATH will do). The first
// time it goes through all of it, for which ctx is the limit; then it is two
// system calls.
func (p *Projects) Apply(ctx context.Context, name vassal.Name, dir *os.File, l Limit) error {
	if err := enforced(int(dir.Fd())); err != nil {
		return err
	}
	id, err := p.cfg.ID(name)
	if err != nil {
		return fmt.Errorf("the vassal's project: %w", err)
	}
	if err := p.mark(ctx, name, dir, uint32(id)); err != nil {
		return err
	}
	return bound(int(dir.Fd()), uint32(id), l)
}

// Usage is what the vassal takes on the file system of the open directory dir.
func (p *Projects) Usage(name vassal.Name, dir *os.File) (Usage, error) {
	id, err := p.cfg.ID(name)
	if err != nil {
		return Usage{}, err
	}
	return usage(int(dir.Fd()), uint32(id))
}

// Lift takes the limits away from a vassal that had some. Its files keep their
// project.
func (p *Projects) Lift(name vassal.Name) error {
	at, ok, err := p.look(name)
	if err != nil || !ok {
		return err
	}
	dir, err := open(at.Path)
	if err != nil {
		return p.note(name, nil) // the directory is gone, and what was in it
	}
	defer dir.Close()
	id, err := p.cfg.ID(name)
	if err != nil {
		return err
	}
	err = bound(int(dir.Fd()), uint32(id), Limit{})
	if err != nil && enforced(int(dir.Fd())) == nil {
		return err
	}
	return p.note(name, nil)
}

// mark gives everything in dir the project id, unless that has been done.
func (p *Projects) mark(ctx context.Context, name vassal.Name, dir *os.File, id uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return err
	}
	was, ok, err := p.look(name)
	if err != nil {
		return err
	}
	top, err := reopen(int(dir.Fd()), unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer top.Close()
	at := place{Path: top.Name(), Device: st.Dev, Inode: st.Ino}
	if a, err := attrOf(int(top.Fd())); err != nil {
		return fmt.Errorf("project of %s: %w", at.Path, err)
	} else if ok && was == at && a.project == id && a.flags&projInherit != 0 {
		return nil
	}
	// An Emperor that is killed on the way begins anew.
	if err := p.note(name, nil); err != nil {
		return err
	}
	w := walk{ctx: ctx, id: id, free: p.free}
	if err := w.all(top); err != nil {
		return err
	}
	return p.note(name, &at)
}

// free reports whether files of the project may get another one: nobody's are,
// and those of a vassal that is no more.
func (p *Projects) free(project uint32) error {
	if project == 0 {
		return nil
	}
	owner, ok := p.cfg.Owner(int(project))
	switch {
	case ok && !p.cfg.Lives(owner):
		return nil
	case ok:
		return fmt.Errorf("%w: it counts for vassal %s", ErrTaken, owner)
	}
	return fmt.Errorf("%w: it belongs to project %d, which is not Liege's", ErrTaken, project)
}

// look says which directory of the vassal is marked.
func (p *Projects) look(name vassal.Name) (place, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.load(); err != nil {
		return place{}, false, err
	}
	at, ok := p.marked[name]
	return at, ok, nil
}

// note remembers that at is marked, on disk; nil: that nothing is.
func (p *Projects) note(name vassal.Name, at *place) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.load(); err != nil {
		return err
	}
	next := maps.Clone(p.marked)
	if delete(next, name); at != nil {
		next[name] = *at
	}
	if maps.Equal(next, p.marked) {
		return nil
	}
	if err := save(p.cfg.File, next); err != nil {
		return fmt.Errorf("which directories have a quota: %w", err)
	}
	p.marked = next
	return nil
}

// load reads the file, once. One that is damaged is as one that is not there:
// everything is marked once more.
func (p *Projects) load() error {
	if p.marked != nil {
		return nil
	}
	text, err := os.ReadFile(p.cfg.File)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	marked := map[vassal.Name]place{}
	if json.Unmarshal(text, &marked) != nil {
		clear(marked)
	}
	p.marked = marked
	return nil
}

func save(file string, marked map[vassal.Name]place) error {
	text, err := json.MarshalIndent(marked, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".quota")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

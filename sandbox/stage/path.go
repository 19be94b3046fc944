package stage

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// place is the last component of a path that root walked to: an open
// directory and a name in it. Nothing that happens to the path afterwards
// changes it.
type place struct {
	dir    int // O_PATH; the caller closes it
	name   string
	shared bool // somebody besides root can write on the way
}

func (p *place) close() error { return unix.Close(p.dir) }

var (
	errLink    = errors.New("a symbolic link in a directory that not only root can write")
	errManyLnk = errors.New("too many symbolic links")

	errSecondName = errors.New("has a second name (hard link), in a directory that not only root can write")
)

const maxLinks = 40

// walk resolves path for root. Links are followed only where nobody but root
// can have made them; follow says whether a link at the end is, too.
func (r *run) walk(path string, follow bool) (*place, error) {
	w, err := r.newWalk(path)
	if err != nil {
		return nil, err
	}
	p, err := w.run(follow)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), w.close(0))
	}
	// The last directory is the caller's now.
	return p, w.close(1)
}

// walker is a walk under way: the open directories from the root to here, and
// what is still to go.
type walker struct {
	root  int
	dirs  []walkDir
	todo  []string
	links int
}

type walkDir struct {
	fd     int
	shared bool
}

func (r *run) newWalk(path string) (*walker, error) {
	if !strings.HasPrefix(path, "/") {
		cwd, err := os.Getwd()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		path = cwd + "/" + path
	}
	w := &walker{root: r.root, todo: strings.Split(path, "/")}
	return w, w.enter(r.root, ".")
}

// enter opens the directory name in dir.
func (w *walker) enter(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	shared := st.Uid != 0 || st.Mode&0o022 != 0
	if n := len(w.dirs); n > 0 {
		shared = shared || w.dirs[n-1].shared
	}
	w.dirs = append(w.dirs, walkDir{fd: fd, shared: shared})
	return nil
}

// close closes all directories but the last n.
func (w *walker) close(n int) error {
	var err error
	for _, d := range w.dirs[:len(w.dirs)-n] {
		err = errors.Join(err, unix.Close(d.fd))
	}
	w.dirs = w.dirs[len(w.dirs)-n:]
	return err
}

func (w *walker) here() walkDir { return w.dirs[len(w.dirs)-1] }

func (w *walker) run(follow bool) (*place, error) {
	for len(w.todo) > 0 {
		name := w.todo[0]
		w.todo = w.todo[1:]
		last := strings.Trim(strings.Join(w.todo, ""), "/") == ""
		here := w.here()
		switch name {
		case "", ".":
			continue
		case "..":
			if len(w.dirs) > 1 {
				w.dirs = w.dirs[:len(w.dirs)-1]
				if err := unix.Close(here.fd); err != nil {
					return nil, err
				}
			}
			continue
		}
		var st unix.Stat_t
		err := unix.Fstatat(here.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK && (!last || follow) {
			if err := w.link(here, name); err != nil {
				return nil, err
			}
			continue
		}
		if last {
			return &place{dir: here.fd, name: name, shared: here.shared}, nil
		}
		if err == nil {
			err = w.enter(here.fd, name)
		}
		if err != nil {
			return nil, err
		}
	}
	// The path ends in a directory that was entered already: "/", "a/..".
	return &place{dir: w.here().fd, name: ".", shared: w.here().shared}, nil
}

// link replaces the link name by what it says.
func (w *walker) link(here walkDir, name string) error {
	if here.shared {
		return fmt.Errorf("%s: %w", name, errLink)
	}
	if w.links++; w.links > maxLinks {
		return errManyLnk
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(here.fd, name, buf)
	if err != nil {
		return err
	}
	target := string(buf[:n])
	w.todo = append(strings.Split(target, "/"), w.todo...)
	if strings.HasPrefix(target, "/") {
		if err := w.close(0); err != nil {
			return err
		}
		return w.enter(w.root, ".")
	}
	return nil
}

// open opens the place itself, never what it links to. In a shared directory
// it refuses what a tenant could have put there for root to trip over.
func (p *place) open(flags int) (int, error) {
	fd, err := unix.Openat(p.dir, p.name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0o666)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = p.trap(&st)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func (p *place) trap(st *unix.Stat_t) error {
	kind := st.Mode & unix.S_IFMT
	switch {
	case kind == unix.S_IFLNK:
		return errLink
	case !p.shared || kind == unix.S_IFDIR:
		return nil
	case kind != unix.S_IFREG:
		return errors.New("no regular file, in a directory that not only root can write")
	case st.Nlink > 1:
		return errSecondName
	}
	return nil
}

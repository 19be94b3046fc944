package quota

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// What a walk goes through at most. A tenant may make its directory deeper: then
// it has no quota, and does not start.
const (
	maxDepth  = 1000 // each level is an open descriptor
	maxPasses = 5
	batch     = 1024 // names that are read at once
)

// walk gives everything below a directory the project id. Directories first: what
// is made in a marked one is marked, and nothing that is not can be moved there.
type walk struct {
	ctx     context.Context
	id      uint32
	free    func(project uint32) error // nil: its files may be taken
	changed int                        // in this pass
}

// all walks until there is nothing left to mark: an entry that is renamed while
// its directory is read may not be seen.
func (w *walk) all(top *os.File) error {
	for range maxPasses {
		w.changed = 0
		dir, err := reopen(int(top.Fd()), unix.O_DIRECTORY) // to be read from its beginning
		if err != nil {
			return err
		}
		err = errors.Join(w.dir(dir, top.Name(), 0), dir.Close())
		if err != nil || w.changed == 0 {
			return err
		}
	}
	return fmt.Errorf("%s: files are moved about in it while they are counted", top.Name())
}

// dir marks an open directory and what is in it.
func (w *walk) dir(dir *os.File, path string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: directories lie deeper in each other than %d", path, maxDepth)
	}
	if err := w.mark(dir, path, false); err != nil {
		return err
	}
	for {
		if err := w.ctx.Err(); err != nil {
			return fmt.Errorf("%s: its files are not all counted yet: %w", path, err)
		}
		names, err := dir.Readdirnames(batch)
		for _, name := range names {
			if err := w.entry(dir, name, path+"/"+name, depth); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// entry marks what dir has under name. What is neither a file nor a directory
// holds no data; another file system is not the app's to write to.
func (w *walk) entry(dir *os.File, name, path string, depth int) error {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EXDEV):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	flags := 0
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		flags = unix.O_DIRECTORY
	default:
		return nil
	}
	f, err := reopen(fd, flags)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	if flags != 0 {
		return w.dir(f, path, depth+1)
	}
	return w.mark(f, path, st.Nlink > 1)
}

// mark gives one open file or directory the project. Of a file with several
// names another vassal may have the first: then it counts there.
func (w *walk) mark(f *os.File, path string, shared bool) error {
	a, err := attrOf(int(f.Fd()))
	if err != nil {
		return fmt.Errorf("project of %s: %w", path, err)
	}
	want := a
	want.project = w.id
	if fi, err := f.Stat(); err != nil {
		return err
	} else if fi.IsDir() {
		want.flags |= projInherit
	}
	if a == want {
		return nil
	}
	if a.project != w.id {
		switch err := w.free(a.project); {
		case err != nil && shared:
			return nil
		case err != nil:
			return fmt.Errorf("%s %w", path, err)
		}
	}
	if err := want.set(int(f.Fd())); err != nil {
		return fmt.Errorf("set the project of %s: %w", path, err)
	}
	w.changed++
	return nil
}

// reopen makes of an O_PATH descriptor of a file or directory one that can be
// asked. It names one inode, so nothing is followed; it waits for nobody's lease
// and leaves the time of access alone.
func reopen(fd, flags int) (*os.File, error) {
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	n, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOATIME|unix.O_NOCTTY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		return nil, err
	}
	name, _ := os.Readlink(path)
	return os.NewFile(uintptr(n), name), nil
}

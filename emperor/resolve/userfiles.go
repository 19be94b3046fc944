package resolve

import (
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// kept is a file of the user database as it was last read. Every start asks a
// dozen questions of these files, and thousands of vassals may start at once.
type kept[T any] struct {
	mu  sync.Mutex
	of  fileState
	all []T
}

// fileState tells one state of a file from another.
type fileState struct {
	path         string
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// restless is how young a file's times may not be: of one that was changed a
// moment ago they may stay the same at the next change.
const restless = time.Second

func stateOf(path string, fi os.FileInfo) (s fileState, calm bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return s, false
	}
	s = fileState{path, st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
	return s, time.Since(time.Unix(st.Ctim.Unix())) > restless
}

// read returns the entries of the file at path, which is read if it has changed.
func (k *kept[T]) read(path string, parse func(io.Reader) ([]T, error)) ([]T, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if fi, err := os.Stat(path); err == nil {
		if now, calm := stateOf(path, fi); calm && now == k.of {
			return k.all, nil
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat() // of what is read, and before it is
	if err != nil {
		return nil, err
	}
	all, err := parse(f)
	if err != nil {
		return nil, err
	}
	if now, calm := stateOf(path, fi); calm {
		k.of, k.all = now, all
	}
	return all, nil
}

// matching are the entries that match.
func matching[T any](all []T, match func(T) bool) (found []T) {
	for _, e := range all {
		if match(e) {
			found = append(found, e)
		}
	}
	return found
}

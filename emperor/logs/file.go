package logs

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// open opens the log file: root's, readable by the vassal's group.
func (l *Log) open() error {
	if err := os.MkdirAll(l.set.Dir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(l.Path(), os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", l.Path())
	}
	if err == nil && l.gid >= 0 {
		err = errors.Join(f.Chown(0, l.gid), f.Chmod(0o640))
	}
	if err != nil {
		f.Close()
		return err
	}
	l.out, l.size, l.torn = f, fi.Size(), false
	return nil
}

// handOver gives the log to another group. What is in it was another's, of whom the
// vassal's name was before: it is root's alone from now on.
func (l *Log) handOver(gid int) error {
	if l.out != nil {
		fi, err := l.out.Stat()
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if ok && st.Gid != 0 && int(st.Gid) != gid {
			l.gid = 0
			for n := range l.set.Keep {
				if err := os.Lchown(l.old(n+1), 0, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			if fi.Size() > 0 {
				l.rotate()
			}
		}
	}
	if l.gid = gid; l.out == nil {
		return nil // open gives it to the group
	}
	return l.out.Chown(0, gid)
}

// old is the name of the nth file that was rotated away.
func (l *Log) old(n int) string { return fmt.Sprintf("%s.%d.gz", l.Path(), n) }

// write appends s to the file, and reports whether it is there.
func (l *Log) write(s []byte) bool {
	if l.out == nil { // a rotation failed
		if err := l.open(); err != nil {
			l.lose(len(s), err.Error())
			l.written(reason(err))
			return false
		}
	}
	own := len(s)
	if l.torn {
		s = append([]byte{'\n'}, s...)
	}
	n, err := l.out.Write(s)
	l.size += int64(n)
	ends := len(s) - own // of the line before
	l.torn = n < len(s) && (n > ends || n == 0 && l.torn)
	if err != nil {
		err = reason(err)
		l.lose(own, err.Error())
		l.written(err)
		return false
	}
	l.written(nil)
	if l.size >= l.set.MaxSize {
		l.rotate()
	}
	return true
}

// reason is err without the path that it is about.
func reason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// rotate makes NAME.log.1.gz of NAME.log, .2.gz of that, and so on. What
// cannot be done is left out: the log goes on.
func (l *Log) rotate() {
	old := l.old
	_ = os.Remove(old(l.set.Keep)) // missing, at first
	for n := l.set.Keep - 1; n > 0; n-- {
		_ = os.Rename(old(n), old(n+1)) // missing, at first
	}
	l.out.Close()
	l.out = nil
	plain := l.Path() + ".1"
	if err := os.Rename(l.Path(), plain); err != nil {
		l.lose(0, err.Error())
		return
	}
	if err := l.compress(plain, old(1)); err != nil {
		_ = os.Remove(old(1)) // half of it
		l.lose(0, err.Error())
	}
	_ = os.Remove(plain) // compressed, or there is no room for it
	if err := l.open(); err != nil {
		l.out = nil // the next line tries again
	}
}

func (l *Log) compress(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	defer out.Close()
	if l.gid >= 0 {
		if err := out.Chown(0, l.gid); err != nil {
			return err
		}
	}
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, in); err != nil {
		return err
	}
	return errors.Join(z.Close(), out.Close())
}

// Expire removes the logs in dir of vassals that are gone, once they have not
// been written to for KeepFor.
func Expire(dir string, lives func(vassal.Name) bool, now time.Time) error {
	es, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range es {
		base, rest, ok := strings.Cut(e.Name(), ".log")
		for ok && strings.Contains(rest, ".log") { // a vassal named x.log
			more, after, _ := strings.Cut(rest, ".log")
			base, rest = base+".log"+more, after
		}
		name, err := vassal.ParseName(base)
		if !ok || err != nil || lives(name) || rest != "" && !strings.HasSuffix(rest, ".gz") && rest != ".1" {
			continue
		}
		if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() && now.Sub(fi.ModTime()) > KeepFor {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// bucket is a token bucket: rate a second, at most burst at once.
type bucket struct {
	rate, burst float64
	level       float64
	last        time.Time // zero: full
}

func (b *bucket) take(n int, now time.Time) bool {
	if b.last.IsZero() {
		b.level = b.burst
	} else {
		b.level = min(b.burst, b.level+now.Sub(b.last).Seconds()*b.rate)
	}
	b.last = now
	if float64(n) > b.level {
		return false
	}
	b.level -= float64(n)
	return true
}

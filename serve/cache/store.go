package cache

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A store is a file that a cache is read from at the start, and written to
// from time to time and at the end. It is written beside its place and
// renamed, so it is whole at any time:
//
//	"liege cache 1\n"
//	int64             when the core started that wrote it, in nanoseconds since 1970
//	for each item:
//	    uint16        length of the key, not 0
//	    uint64        length of the value
//	    int64         unix time at which it expires; 0: never
//	    the key, the value
//	uint16 0
//	uint32            CRC-32C of all before
//
// all little-endian. At a reload two generations use one store: the new one
// reads it when it starts, and what the old one wrote at its end a moment
// later, as far as it has no value of its own; the old one does not write over
// what the new one wrote.
const magic = "liege cache 1\n"

// persistence is what a cache knows about its store.
type persistence struct {
	born   int64       // of this core
	seen   fs.FileInfo // the file as it was last read or written
	change uint64      // the state that it has
	failed bool        // the last write failed: said once
}

var (
	errForeign = errors.New("is not the store of a cache; remove it, or write store_delete=1")
	errDamaged = errors.New("is damaged")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// load reads the store at the start. A file that is not there is an empty one.
func (c *Cache) load() error {
	c.saved.born = time.Now().UnixNano()
	err := c.readStore(c.cfg.Store, func(int64) bool { return true })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, errForeign) && c.cfg.StoreDelete:
		return nil
	case errors.Is(err, errDamaged):
		c.log.Warn("cache: the store is not used", "cache", c.cfg.Name, "err", err)
		return nil
	}
	return err
}

// merge reads what an older generation has written since.
func (c *Cache) merge() {
	fi, err := os.Lstat(c.cfg.Store)
	if err != nil || c.saved.seen != nil && os.SameFile(fi, c.saved.seen) && fi.ModTime().Equal(c.saved.seen.ModTime()) {
		return
	}
	if err := c.readStore(c.cfg.Store, func(born int64) bool { return born < c.saved.born }); err != nil {
		c.log.Warn("cache: the store is not used", "cache", c.cfg.Name, "err", err)
	}
}

// openRegular opens a file that may be anything: never through a link, never
// waiting for the other end of a FIFO.
func openRegular(name string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s: is no regular file", name)
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, nil, err
	}
	return f, fi, nil
}

// readStore adds the items of a store whose time of writing is wanted. What is
// there already stays.
func (c *Cache) readStore(name string, wanted func(born int64) bool) error {
	f, fi, err := openRegular(name)
	if err != nil {
		return err
	}
	defer f.Close()
	c.saved.seen = fi
	r := &reader{r: bufio.NewReaderSize(f, 64<<10), sum: crc32.New(castagnoli)}
	born, err := r.header()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !wanted(born) {
		return nil
	}
	fresh := c.count() == 0
	if err := c.readItems(r); err != nil {
		if fresh {
			c.Clear() // none of a damaged file
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (c *Cache) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func (c *Cache) readItems(r *reader) error {
	t := now()
	for {
		key, value, expires, err := r.item(c.cfg.KeySize, c.cfg.Largest())
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if expires != 0 && expires <= t || value == nil {
			continue
		}
		if c.cfg.NoExpire {
			expires = 0
		}
		c.mu.Lock()
		if c.n < c.cfg.Items && c.blocks+c.blocksFor(int64(len(value))) <= c.cfg.Blocks { // it drives nobody out
			_ = c.set(key, value, Add, expires) // a key that is there stays
		}
		c.mu.Unlock()
	}
}

// reader reads a store that anybody may have written.
type reader struct {
	r   *bufio.Reader
	sum hash.Hash32
	buf []byte
}

// bytes reads n bytes, which are valid until the next call; with an error what
// there was of them. Memory is taken as they come.
func (r *reader) bytes(n int64) ([]byte, error) {
	r.buf = r.buf[:0]
	for n > 0 {
		part := min(n, 64<<10)
		at := len(r.buf)
		r.buf = append(r.buf, make([]byte, part)...)
		if n, err := io.ReadFull(r.r, r.buf[at:]); err != nil {
			return r.buf[:at+n], errDamaged
		}
		n -= part
	}
	_, _ = r.sum.Write(r.buf) // never fails
	return r.buf, nil
}

func (r *reader) header() (born int64, err error) {
	b, err := r.bytes(int64(len(magic)))
	switch {
	case len(b) == 0 && err != nil: // of a machine that lost its power
		return 0, errDamaged
	case err != nil || string(b) != magic:
		return 0, errForeign
	}
	if b, err = r.bytes(8); err != nil {
		return 0, err
	}
	return int64(binary.LittleEndian.Uint64(b)), nil
}

// item reads one item; its value is nil if it is none for this cache. At the
// end of a whole file it is io.EOF.
func (r *reader) item(keySize int, largest int64) (key string, value []byte, expires int64, err error) {
	b, err := r.bytes(2)
	if err != nil {
		return "", nil, 0, err
	}
	n := int(binary.LittleEndian.Uint16(b))
	if n == 0 {
		return "", nil, 0, r.end()
	}
	if b, err = r.bytes(16); err != nil {
		return "", nil, 0, err
	}
	size, expires := binary.LittleEndian.Uint64(b), int64(binary.LittleEndian.Uint64(b[8:]))
	if b, err = r.bytes(int64(n)); err != nil {
		return "", nil, 0, err
	}
	key = string(b)
	if n > keySize || size == 0 || size > uint64(largest) {
		return key, nil, 0, r.skip(size)
	}
	value, err = r.bytes(int64(size))
	return key, value, expires, err
}

func (r *reader) skip(n uint64) error {
	for n > 0 {
		part := min(n, 64<<10)
		if _, err := r.bytes(int64(part)); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

func (r *reader) end() error {
	want := r.sum.Sum32()
	b, err := r.bytes(4)
	if err != nil || binary.LittleEndian.Uint32(b) != want {
		return errDamaged
	}
	return io.EOF
}

// save writes the store if anything changed, unless a newer generation has
// written it. With safely it is on the disk afterwards. What goes wrong is logged
// once.
func (c *Cache) save(safely bool) {
	c.mu.Lock()
	change := c.change
	c.mu.Unlock()
	if change == c.saved.change || c.newer() {
		return
	}
	err := c.writeStore(safely)
	if err == nil {
		c.saved.change = change
	} else if !c.saved.failed {
		c.log.Error("cache: the store is not written", "cache", c.cfg.Name, "err", err)
	}
	c.saved.failed = err != nil
}

// newer reports whether a newer core has written the store. A time in the
// future is nobody's.
func (c *Cache) newer() bool {
	f, _, err := openRegular(c.cfg.Store)
	if err != nil {
		return false
	}
	defer f.Close()
	r := &reader{r: bufio.NewReader(f), sum: crc32.New(castagnoli)}
	born, err := r.header()
	return err == nil && born > c.saved.born && born <= time.Now().UnixNano()
}

func (c *Cache) writeStore(safely bool) error {
	dir, base := filepath.Split(c.cfg.Store)
	tmp := dir + "." + base + "." + strconv.Itoa(os.Getpid()) + ".tmp"
	_ = os.Remove(tmp) // of a core that was killed
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	fi, err := c.writeItems(f, safely)
	if err2 := f.Close(); err == nil {
		err = err2
	}
	if err == nil {
		err = os.Rename(tmp, c.cfg.Store)
	}
	if err != nil {
		_ = os.Remove(tmp) // the error is told
		return err
	}
	c.saved.seen = fi
	return nil
}

// writeItems writes all items, each under the lock for itself: requests go on.
func (c *Cache) writeItems(f *os.File, safely bool) (fs.FileInfo, error) {
	sum := crc32.New(castagnoli)
	w := bufio.NewWriterSize(f, 64<<10)
	out := io.MultiWriter(w, sum)
	head := binary.LittleEndian.AppendUint64([]byte(magic), uint64(c.saved.born))
	_, err := out.Write(head)
	var buf []byte
	for i := uint32(0); err == nil; i++ {
		var more bool
		if buf, more = c.record(buf[:0], i); !more {
			break
		}
		_, err = out.Write(buf)
	}
	if err == nil {
		_, err = out.Write([]byte{0, 0})
	}
	if err == nil {
		_, err = w.Write(binary.LittleEndian.AppendUint32(nil, sum.Sum32()))
	}
	if err == nil {
		err = w.Flush()
	}
	if err == nil && safely {
		err = f.Sync()
	}
	if err != nil {
		return nil, err
	}
	return f.Stat()
}

// record is item i as the store has it, empty for one that is free. It is
// false behind the last.
func (c *Cache) record(b []byte, i uint32) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if int(i) >= len(c.items) {
		return b, false
	}
	e := &c.items[i]
	if e.keyLen == 0 || e.expires != 0 && e.expires <= now() {
		return b, true
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(e.keyLen))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.size))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.expires))
	b = append(b, c.key(i)...)
	return c.read(b, i), true
}

// readFile is what a file holds that is put into a cache, compressed if asked
// for.
func readFile(name string, pack bool, limit int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is no regular file", name)
	}
	if !pack {
		return limited(f, name, limit)
	}
	plain, err := limited(f, name, maxPacked)
	if err != nil {
		return nil, err
	}
	packed, err := Gzip(plain)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return limited(bytes.NewReader(packed), name, limit)
}

// Gzip compresses a value.
func Gzip(value []byte) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(value)
	if err == nil {
		err = z.Close()
	}
	return out.Bytes(), err
}

// maxPacked bounds a file that is compressed, in bytes.
const maxPacked = 64 << 20

func limited(r io.Reader, name string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: is longer than the %d bytes that the cache takes", name, limit)
	}
	return b, err
}

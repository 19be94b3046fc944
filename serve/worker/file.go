package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// file receives the descriptor of a file and sends the part of it.
func (l *lane) file(f frame) error {
	c := l.current
	if f.size != 16 || !c.started {
		return breachf("a file without a head")
	}
	var spec [16]byte
	if err := l.read(spec[:]); err != nil {
		return err
	}
	if l.n != l.r {
		return breachf("more before the file's descriptor")
	}
	if err := l.send('G', 0, nil); err != nil {
		return err
	}
	file, err := l.passed()
	if err != nil {
		return err
	}
	if !readable(file) {
		file.Close()
		c.spoil(errors.New("the application's file is no regular one that is open for reading"))
		return nil
	}
	off, n := int64(binary.LittleEndian.Uint64(spec[:])), int64(binary.LittleEndian.Uint64(spec[8:]))
	if off < 0 || n < 0 {
		file.Close()
		return breachf("a file with a negative length")
	}
	c.file(file, off, n, &l.p.spooled)
	return nil
}

// readable reports whether file is a regular file open for reading.
func readable(file *os.File) bool {
	fd := file.Fd()
	var st unix.Stat_t
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	return err == nil && unix.Fstat(int(fd), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG &&
		flags&unix.O_PATH == 0 && flags&unix.O_ACCMODE != unix.O_WRONLY
}

// passed receives one descriptor of whatever kind.
func (l *lane) passed() (*os.File, error) {
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4*16))
	n, oobn, _, _, err := l.conn.ReadMsgUnix(b[:], oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err == nil {
			fds = append(fds, got...)
		}
	}
	if len(fds) != 1 || n != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, breachf("%d descriptors instead of one", len(fds))
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "file of the application"), nil
}

// file hands n bytes of f to the client, and closes f in the end: the worker
// does not wait for that.
func (c *call) file(f *os.File, off, n int64, all *atomic.Int64) {
	if s, n := c.wants(f, off, n, all); s != nil {
		s.putFile(f, off, n) // without mu: it may wait
		return
	}
	f.Close()
}

// wants is how many of n bytes of f from off are to be sent, and where to put
// them; nil: none.
func (c *call) wants(f *os.File, off, n int64, all *atomic.Int64) (*spool, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left >= 0 {
		n = min(n, c.left)
		c.left -= n
	}
	if c.w == nil || c.err != nil || c.nobody || n == 0 {
		return nil, 0
	}
	st, err := f.Stat()
	if err == nil && st.Size() < off+n {
		err = fmt.Errorf("a file of %d bytes became shorter while it was sent", off+n)
	}
	if c.err = err; err != nil {
		return nil, 0
	}
	return c.spooling(all), n
}

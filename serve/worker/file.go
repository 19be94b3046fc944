package worker

import (
	"encoding/binary"
	"fmt"
	"os"

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
	file, err := l.descriptor()
	if err != nil {
		return err
	}
	defer file.Close()
	off, n := int64(binary.LittleEndian.Uint64(spec[:])), int64(binary.LittleEndian.Uint64(spec[8:]))
	if off < 0 || n < 0 {
		return breachf("a file with a negative length")
	}
	return c.file(file, off, n)
}

// descriptor receives the descriptor of a regular file open for reading.
func (l *lane) descriptor() (*os.File, error) {
	file, err := l.passed()
	if err != nil {
		return nil, err
	}
	fd := file.Fd()
	var st unix.Stat_t
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil || unix.Fstat(int(fd), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG ||
		flags&unix.O_PATH != 0 || flags&unix.O_ACCMODE == unix.O_WRONLY {
		file.Close()
		return nil, breachf("a descriptor that is no readable regular file")
	}
	return file, nil
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

// file hands n bytes of f to the response.
func (c *call) file(f *os.File, off, n int64) error {
	c.lock(writing)
	defer c.unlock()
	if c.left >= 0 {
		n = min(n, c.left)
		c.left -= n
	}
	if c.w == nil || c.err != nil || c.nobody || n == 0 {
		return nil
	}
	st, err := f.Stat()
	if err == nil && st.Size() < off+n {
		err = fmt.Errorf("a file of %d bytes became shorter while it was sent", off+n)
	}
	if err == nil {
		err = c.w.File(f, off, n)
	}
	c.err = err
	return nil
}

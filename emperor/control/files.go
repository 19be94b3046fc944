package control

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxFiles is how many descriptors may come with a request: those of Enter.
const maxFiles = 3

// received reads a connection and keeps the descriptors that come with it, if they
// may: to close one that leads to a FUSE waits for its server, whatever kills the
// waiting process. The kernel drops what nobody has taken without asking.
type received struct {
	conn  *net.UnixConn
	take  bool // descriptors
	files []*os.File
}

func (r *received) Read(b []byte) (int, error) {
	if !r.take {
		return r.conn.Read(b)
	}
	oob := make([]byte, unix.CmsgSpace(4*maxFiles)) // the kernel closes what does not fit
	n, o, _, _, err := r.conn.ReadMsgUnix(b, oob)
	messages, perr := unix.ParseSocketControlMessage(oob[:max(o, 0)])
	if perr != nil {
		messages = nil
	}
	for _, m := range messages {
		fds, ferr := unix.ParseUnixRights(&m)
		if ferr != nil {
			continue
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), "received")
			if len(r.files) == maxFiles {
				f.Close()
				continue
			}
			r.files = append(r.files, f)
		}
	}
	return n, err
}

func (r *received) close() {
	for _, f := range r.files {
		f.Close()
	}
	r.files = nil
}

// send writes line with files beside it.
func send(conn *net.UnixConn, line []byte, files []*os.File) error {
	if len(files) == 0 {
		_, err := conn.Write(line)
		return err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	n, _, err := conn.WriteMsgUnix(line, unix.UnixRights(fds...), nil)
	if err == nil && n < len(line) {
		_, err = conn.Write(line[n:])
	}
	return err
}

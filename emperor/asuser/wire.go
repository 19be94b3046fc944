package asuser

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The protocol, on one SOCK_SEQPACKET pair:
//
//	Emperor                         child
//	  one packet: request (JSON) ──►
//	                             ◄── one packet: reply (JSON) with at most one descriptor
//	                             ◄── Data bytes more, in packets of at most maxPacket
//
// One request at a time. Anything else ends the session.
const maxPacket = 32 << 10

type request struct {
	Op      string      `json:"op"`
	Path    string      `json:"path"`
	Max     int         `json:"max,omitempty"`
	Mode    fs.FileMode `json:"mode,omitempty"`
	Backlog int         `json:"backlog,omitempty"`
	GID     int         `json:"gid"` // -1: leave
	Text    string      `json:"text,omitempty"`
	Dev     uint64      `json:"dev,omitempty"`
	Ino     uint64      `json:"ino,omitempty"`
	Context string      `json:"context,omitempty"` // of a socket to make
	Below   string      `json:"below,omitempty"`   // Part
}

type reply struct {
	Errno int    `json:"errno,omitempty"`
	Err   string `json:"err,omitempty"`
	Data  int    `json:"data,omitempty"` // bytes that follow
	FD    bool   `json:"fd,omitempty"`
	Real  string `json:"real,omitempty"` // what a link holds
	Info  *info  `json:"info,omitempty"`
}

// info is an fs.FileInfo on the wire.
type info struct {
	N string      `json:"name"`
	S int64       `json:"size"`
	M fs.FileMode `json:"mode"`
	T time.Time   `json:"mtime"`
	U uint32      `json:"uid"`
	G uint32      `json:"gid"`
	D uint64      `json:"dev"`
	I uint64      `json:"ino"`
}

func (i *info) Name() string       { return i.N }
func (i *info) Size() int64        { return i.S }
func (i *info) Mode() fs.FileMode  { return i.M }
func (i *info) ModTime() time.Time { return i.T }
func (i *info) IsDir() bool        { return i.M.IsDir() }

// Sys is a *syscall.Stat_t with owner, device and inode.
func (i *info) Sys() any {
	return &syscall.Stat_t{Uid: i.U, Gid: i.G, Dev: i.D, Ino: i.I}
}

// parseReply checks one reply packet. want says what the request may bring.
func parseReply(b []byte, maxData int, wantFD bool) (*reply, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	r := new(reply)
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("reply: %w", err)
	}
	if _, err := d.Token(); err == nil {
		return nil, errors.New("reply: more than one value")
	}
	switch {
	case r.Errno < 0 || r.Errno >= 4096:
		return nil, fmt.Errorf("reply: errno %d", r.Errno)
	case r.Data < 0 || r.Data > maxData:
		return nil, fmt.Errorf("reply: %d bytes announced, want at most %d", r.Data, maxData)
	case r.FD && !wantFD:
		return nil, errors.New("reply: a descriptor that was not asked for")
	}
	return r, nil
}

// err is the reply's error: it wraps the errno, so that errors.Is(err,
// fs.ErrNotExist) works.
func (r *reply) err(op, path string) error {
	switch {
	case r.Errno != 0 && r.Err != "":
		return &fs.PathError{Op: op, Path: path, Err: fmt.Errorf("%s: %w", clip(r.Err), syscall.Errno(r.Errno))}
	case r.Errno != 0:
		return &fs.PathError{Op: op, Path: path, Err: syscall.Errno(r.Errno)}
	case r.Err != "":
		return &fs.PathError{Op: op, Path: path, Err: errors.New(clip(r.Err))}
	}
	return nil
}

// clip makes text of a stranger fit for one line of a message.
func clip(s string) string {
	b := []byte(s[:min(len(s), 200)])
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return string(b)
}

// call sends q and returns the reply, its data and its descriptor, which the
// caller closes.
func (s *Session) call(q request, wantFD bool) (r *reply, data []byte, f *os.File, err error) {
	if s.dead != nil {
		return nil, nil, nil, s.dead
	}
	defer func() {
		if err != nil && s.dead == nil {
			s.dead = fmt.Errorf("uid %d: %s %s: %w: %w", s.who.UID, q.Op, q.Path, ErrGone, err)
			err = s.dead
		}
	}()
	b, err := json.Marshal(q)
	if err != nil {
		return nil, nil, nil, err
	}
	if len(b) > maxPacket {
		return &reply{Errno: int(unix.ENAMETOOLONG)}, nil, nil, nil
	}
	if err := s.conn.SetDeadline(time.Now().Add(CallTime)); err != nil {
		return nil, nil, nil, err
	}
	if _, err := s.conn.Write(b); err != nil {
		return nil, nil, nil, err
	}
	r, f, err = s.receive(q.Max, wantFD)
	if err != nil {
		return nil, nil, nil, err
	}
	for len(data) < r.Data {
		buf := make([]byte, maxPacket)
		n, err := s.conn.Read(buf)
		if err == nil && (n == 0 || len(data)+n > r.Data) {
			err = errors.New("wrong amount of data")
		}
		if err != nil {
			if f != nil {
				f.Close()
			}
			return nil, nil, nil, err
		}
		data = append(data, buf[:n]...)
	}
	return r, data, f, nil
}

// receive reads one reply packet with at most one descriptor.
func (s *Session) receive(maxData int, wantFD bool) (*reply, *os.File, error) {
	buf, oob := make([]byte, maxPacket), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, flags, _, err := s.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, nil, err
	}
	fds := descriptors(oob[:oobn])
	r, err := parseReply(buf[:n], maxData, wantFD)
	if err == nil && (flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 || r.FD != (len(fds) == 1) || len(fds) > 1) {
		err = errors.New("descriptors that don't match the reply")
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, nil, err
	}
	if r.FD {
		return r, os.NewFile(uintptr(fds[0]), "as-user"), nil
	}
	return r, nil, nil
}

func descriptors(oob []byte) (fds []int) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

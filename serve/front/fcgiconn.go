package front

import (
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
)

// fcgiConn is a FastCGI connection as a plain one: what is read is the stream
// stdin of the request at hand, what is written becomes stdout. One goroutine
// reads; any may write.
type fcgiConn struct {
	net.Conn
	c    *conn
	id   uint16 // of the request; 0: none
	keep bool   // FCGI_KEEP_CONN

	in         [4 << 10]byte // received, not yet used: in[r:w]
	r, w       int
	left       int // of the content of the stdin record at hand
	pad        int // behind it
	stdinEnded bool

	wmu    sync.Mutex
	broken error // of a record that was not sent whole: no other can follow
}

// fcgiHead is the head of a record.
type fcgiHead struct {
	kind      byte
	id        uint16
	size, pad int
}

const (
	fcgiHeadSize = 8
	// maxFcgiContent is the most that one record holds, a multiple of 8 so
	// that it needs no padding.
	maxFcgiContent = 65528
	// maxFcgiValues bounds a question about the server's limits.
	maxFcgiValues = 1 << 10
)

// fillTo reads until n bytes, at most 4096, are in the buffer.
func (f *fcgiConn) fillTo(n int) error {
	if f.w-f.r >= n {
		return nil
	}
	f.w = copy(f.in[:], f.in[f.r:f.w])
	f.r = 0
	for f.w < n {
		m, err := f.Conn.Read(f.in[f.w:])
		f.w += m
		if m == 0 {
			if err == nil {
				err = io.ErrNoProgress
			}
			return err
		}
	}
	return nil
}

// header reads the head of the next record.
func (f *fcgiConn) header() (fcgiHead, error) {
	if err := f.fillTo(1); err != nil {
		return fcgiHead{}, err
	}
	if f.in[f.r] != fcgiVersion {
		return fcgiHead{}, f.notFastCGI()
	}
	if err := f.fillTo(fcgiHeadSize); err != nil {
		return fcgiHead{}, err
	}
	b := f.in[f.r : f.r+fcgiHeadSize]
	f.r += fcgiHeadSize
	return fcgiHead{kind: b[1], id: uint16(b[2])<<8 | uint16(b[3]), size: int(b[4])<<8 | int(b[5]), pad: int(b[6])}, nil
}

// notFastCGI says what came instead.
func (f *fcgiConn) notFastCGI() error {
	const hint = "http-socket = instead of fastcgi-socket =, or in nginx fastcgi_pass instead of proxy_pass"
	if !f.c.served && f.fillTo(packetHead) == nil && spokenHTTP(f.in[f.r:f.w]) {
		f.c.s.hint(hintHTTP, "HTTP came to a FastCGI listener", hint, f.Conn)
		return errSpokenFastCGI
	}
	f.c.s.hint(hintFastCGI, "something that is not FastCGI came to a FastCGI listener", hint, f.Conn)
	return errFastCGI
}

// content reads the content of a record that fits into the buffer.
func (f *fcgiConn) content(h fcgiHead) ([]byte, error) {
	n := h.size + h.pad
	if n > len(f.in) {
		return nil, errFastCGI
	}
	if err := f.fillTo(n); err != nil {
		return nil, err
	}
	b := f.in[f.r : f.r+h.size]
	f.r += n
	return b, nil
}

// skip passes over n bytes.
func (f *fcgiConn) skip(n int) error {
	for n > 0 {
		if err := f.fillTo(1); err != nil {
			return err
		}
		m := min(n, f.w-f.r)
		f.r += m
		n -= m
	}
	return nil
}

// record reads the next record of the request; content of more than limit
// bytes is an error. Records of others are answered and passed over.
func (f *fcgiConn) record(limit int) (kind byte, content []byte, err error) {
	for {
		h, err := f.header()
		if err != nil {
			return 0, nil, err
		}
		if h.id != f.id || h.kind == fcgiBegin {
			if err := f.other(h); err != nil {
				return 0, nil, err
			}
			continue
		}
		if h.size > limit {
			f.left, f.pad = h.size, h.pad // for whoever passes over it
			return 0, nil, errLargeHead
		}
		b := make([]byte, h.size)
		for n := 0; n < len(b); {
			if err := f.fillTo(1); err != nil {
				return 0, nil, err
			}
			m := copy(b[n:], f.in[f.r:f.w])
			f.r, n = f.r+m, n+m
		}
		return h.kind, b, f.skip(h.pad)
	}
}

// other deals with a record that is not of the request at hand: the
// specification's 3.3 has those of unknown requests ignored.
func (f *fcgiConn) other(h fcgiHead) error {
	switch {
	case h.id == 0 && h.kind == fcgiGetValues:
		return f.values(h)
	case h.id == 0:
		if err := f.skip(h.size + h.pad); err != nil {
			return err
		}
		return f.send(fcgiUnknown, 0, []byte{h.kind, 0, 0, 0, 0, 0, 0, 0})
	case h.kind == fcgiBegin:
		if err := f.skip(h.size + h.pad); err != nil {
			return err
		}
		if h.id == f.id {
			return errFastCGI
		}
		return f.send(fcgiEnd, h.id, []byte{0, 0, 0, 0, fcgiCantMpx, 0, 0, 0})
	}
	return f.skip(h.size + h.pad)
}

// values answers which limits hold (FCGI_GET_VALUES).
func (f *fcgiConn) values(h fcgiHead) error {
	if h.size > maxFcgiValues {
		return errFastCGI
	}
	b, err := f.content(h)
	if err != nil {
		return err
	}
	var out []byte
	for s := string(b); s != ""; {
		n, rest, ok := fcgiSize(s)
		if !ok {
			return errFastCGI
		}
		m, rest, ok := fcgiSize(rest)
		if !ok || n > len(rest) || m > len(rest)-n {
			return errFastCGI
		}
		name := rest[:n]
		s = rest[n+m:]
		var value string
		switch name {
		case "FCGI_MAX_CONNS", "FCGI_MAX_REQS":
			value = strconv.Itoa(f.c.s.limits.Connections)
		case "FCGI_MPXS_CONNS":
			value = "0"
		default:
			continue
		}
		out = append(out, byte(len(name)), byte(len(value)))
		out = append(append(out, name...), value...)
	}
	return f.send(fcgiValuesResult, 0, out)
}

// nextStdin goes on to the next bytes of stdin: after it left is not 0, or
// stdinEnded holds.
func (f *fcgiConn) nextStdin() error {
	for f.left == 0 && !f.stdinEnded {
		if f.pad > 0 {
			if err := f.skip(f.pad); err != nil {
				return err
			}
			f.pad = 0
		}
		h, err := f.header()
		switch {
		case err != nil:
			return err
		case h.id != f.id || h.kind == fcgiBegin:
			err = f.other(h)
		case h.kind == fcgiAbort:
			return errAborted
		case h.kind == fcgiStdin:
			f.left, f.pad = h.size, h.pad
			f.stdinEnded = h.size == 0
		case h.kind == fcgiData: // of filters
			err = f.skip(h.size + h.pad)
		default:
			return errFastCGI
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Read reads of stdin. io.EOF is its end.
func (f *fcgiConn) Read(p []byte) (int, error) {
	if err := f.nextStdin(); err != nil {
		return 0, err
	}
	if f.left == 0 {
		return 0, io.EOF
	}
	if f.r < f.w {
		n := copy(p[:min(len(p), f.left)], f.in[f.r:f.w])
		f.r, f.left = f.r+n, f.left-n
		return n, nil
	}
	n, err := f.Conn.Read(p[:min(len(p), f.left)])
	f.left -= n
	return n, err
}

// Write writes p to stdout.
func (f *fcgiConn) Write(p []byte) (int, error) {
	for at := 0; at < len(p); {
		n := min(len(p)-at, maxFcgiContent)
		if err := f.send(fcgiStdout, f.id, p[at:at+n]); err != nil {
			return at, err
		}
		at += n
	}
	return len(p), nil
}

// send writes one record.
func (f *fcgiConn) send(kind byte, id uint16, content []byte) error {
	pad := -len(content) & 7
	head := [fcgiHeadSize]byte{fcgiVersion, kind, byte(id >> 8), byte(id), byte(len(content) >> 8), byte(len(content)), byte(pad), 0}
	var zero [8]byte
	v := net.Buffers{head[:], content, zero[:pad]}
	f.wmu.Lock()
	defer f.wmu.Unlock()
	if f.broken == nil {
		f.c.armWrite() // here, because what answers other records is no response's
		_, f.broken = v.WriteTo(f.Conn)
	}
	return f.broken
}

// end ends stdout and the request.
func (f *fcgiConn) end(status byte) error {
	if status == fcgiComplete {
		if err := f.send(fcgiStdout, f.id, nil); err != nil {
			return err
		}
	}
	return f.send(fcgiEnd, f.id, []byte{0, 0, 0, 0, status, 0, 0, 0})
}

// CloseWrite ends the sending side.
func (f *fcgiConn) CloseWrite() error {
	if cw, ok := f.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return syscall.ENOTSUP
}

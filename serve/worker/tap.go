package worker

import (
	"bytes"
	"os"
	"sync"
	"time"
)

// maxLine is how much of a line is looked at, in bytes.
const maxLine = 8 << 10

// untapTime is how long, at the end, what others have written is waited for:
// a process that the application has left behind may keep the pipe open.
const untapTime = time.Second

// Listen has heard called with each line that the application's processes
// write to Stdout and Stderr, without its end and at most maxLine of it. It may
// be called by two goroutines at once, must not wait, and may not keep the line.
// Without it nothing of what they write passes this process. Call it before Run.
func (p *Pool) Listen(heard func(line []byte)) { p.heard = heard }

// tap puts a pipe in the place of Stdout and of Stderr, one for both where they
// are one file, so that nothing changes its order. What comes is passed on at
// once; untap waits for the last of it.
func (p *Pool) tap() (untap func(), err error) {
	var ends []*os.File
	var all sync.WaitGroup
	untap = func() {
		for i, f := range ends {
			if i%2 == 1 {
				f.Close()
			} else {
				_ = f.SetReadDeadline(time.Now().Add(untapTime)) // a pipe has one
			}
		}
		all.Wait()
		for i := 0; i < len(ends); i += 2 {
			ends[i].Close()
		}
	}
	same := sameFile(p.Stdout, p.Stderr)
	for _, place := range []**os.File{&p.Stdout, &p.Stderr} {
		if same && len(ends) > 0 {
			*place = ends[1]
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			untap()
			return nil, err
		}
		ends = append(ends, r, w)
		out := *place
		*place = w
		all.Go(func() { pass(r, out, p.heard) })
	}
	return untap, nil
}

func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y)
}

// pass copies in to out until its end, and says each line.
func pass(in, out *os.File, heard func(line []byte)) {
	buf := make([]byte, 64<<10)
	var begun []byte // of a line
	for {
		n, err := in.Read(buf)
		_, _ = out.Write(buf[:n]) // where the log is gone, alarms are raised still
		for rest := buf[:n]; len(rest) > 0; {
			piece, more, ended := bytes.Cut(rest, []byte{'\n'})
			rest = more
			if room := maxLine - len(begun); len(piece) > room {
				piece = piece[:room]
			}
			if begun = append(begun, piece...); ended {
				heard(begun)
				begun = begun[:0]
			}
		}
		if err != nil {
			if len(begun) > 0 {
				heard(begun)
			}
			return
		}
	}
}

// tapped does what supervise does, with what the processes write listened to where
// that is wanted.
func (p *Pool) tapped(supervise func() error) error {
	if p.heard == nil {
		return supervise()
	}
	stdout, stderr := p.Stdout, p.Stderr
	untap, err := p.tap()
	if err != nil {
		return err
	}
	err = supervise()
	untap()
	p.Stdout, p.Stderr = stdout, stderr
	return err
}

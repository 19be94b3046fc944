package front

import (
	"time"

	"golang.org/x/sys/unix"
)

// Watch implements exchange.Watcher: it looks for the end of what the client
// sends without taking anything. A client that sends another request meanwhile
// is not watched any more.
func (r *response) Watch(left func()) (stop func()) {
	c := r.c
	if _, bodiless := c.req.Body.(eof); c.raw == nil || !bodiless && c.body.err == nil || c.r < c.w {
		return nil
	}
	c.mu.Lock()
	c.readBy = time.Time{}
	_ = c.nc.SetReadDeadline(c.readBy) // as in arm
	c.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		gone := false
		err := c.raw.Read(func(fd uintptr) bool {
			var b [1]byte
			n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			gone = n <= 0
			return err != unix.EAGAIN && err != unix.EINTR
		})
		if err == nil && gone { // else it was stopped
			left()
		}
	}()
	return func() {
		c.interrupt()
		<-done
	}
}

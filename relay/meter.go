package relay

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"liege/vassal/mail"
)

// MeterSize is the size of a meter's file, in bytes.
const MeterSize = 8

// meter counts against a rate. What it has counted is one number in a file that
// the Emperor keeps for the user: the relays of all the user's vassals share it,
// and it outlives each of them, so that nothing that a user may do forgets it.
//
// The number is the time, of the clock that goes on while the machine sleeps, at
// which all that was taken will have been earned again (GCRA).
type meter struct {
	earned *atomic.Int64
	now    func() int64
}

// newMeter maps the file that fd refers to, and closes fd.
func newMeter(fd int) (*meter, error) {
	defer unix.Close(fd)
	page, err := unix.Mmap(fd, 0, MeterSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("meter: %w", err)
	}
	// A mapping begins at a page, so the number is aligned; it is never unmapped.
	return &meter{(*atomic.Int64)(unsafe.Pointer(unsafe.SliceData(page))), bootTime}, nil
}

func bootTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // every kernel has it
	return t.Nano()
}

// take takes one from the rate, or says how long it is until there is one.
func (m *meter) take(r mail.Rate) (wait time.Duration) {
	each := int64(r.Per) / int64(r.N)
	for {
		was, now := m.earned.Load(), m.now()
		// What is further away than the rate allows was counted by a larger one.
		from := min(max(was, now), now+int64(r.Per))
		if late := from + each - now - int64(r.Per); late > 0 {
			return time.Duration(late)
		}
		if m.earned.CompareAndSwap(was, from+each) {
			return 0
		}
	}
}

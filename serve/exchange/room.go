package exchange

import "sync/atomic"

// Room is a bound in bytes of what several requests store together. It is safe
// for concurrent use.
type Room struct {
	most  int64
	taken atomic.Int64
}

// NewRoom returns room for most bytes.
func NewRoom(most int64) *Room { return &Room{most: most} }

// Take takes n bytes; false: they are not there. Give gives them back.
func (r *Room) Take(n int64) bool {
	if r.taken.Add(n) <= r.most {
		return true
	}
	r.taken.Add(-n)
	return false
}

// Give gives n bytes back.
func (r *Room) Give(n int64) { r.taken.Add(-n) }

// Most is how many bytes there are when nobody has taken any.
func (r *Room) Most() int64 { return r.most }

// Taken is how many bytes are taken.
func (r *Room) Taken() int64 { return r.taken.Load() }

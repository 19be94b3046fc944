// Package compress lends compressors to whoever compresses answers as they are
// sent. One takes 0.8 MB, and it is taken for as long as a client takes to read
// its answer: so there are only so many, and whoever gets none sends as it is.
package compress

import (
	"compress/gzip"
	"io"
	"sync"
	"sync/atomic"
)

// most is how many are lent at once: 54 MB. A client that reads needs one for
// moments.
const most = 64

// Lender lends. The zero value is ready; it is safe for concurrent use.
type Lender struct {
	lent atomic.Int64
	idle sync.Pool
}

// Gzip returns a compressor that writes to w, nil if all are lent. Whoever has
// closed it, or not, gives it back with Return.
func (l *Lender) Gzip(w io.Writer) *gzip.Writer {
	if l.lent.Add(1) > most {
		l.lent.Add(-1)
		return nil
	}
	if z, ok := l.idle.Get().(*gzip.Writer); ok {
		z.Reset(w)
		return z
	}
	return gzip.NewWriter(w)
}

// Return takes z back, which Gzip returned.
func (l *Lender) Return(z *gzip.Writer) {
	z.Reset(io.Discard) // it holds nothing of the last answer
	l.idle.Put(z)
	l.lent.Add(-1)
}

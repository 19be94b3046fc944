package worker

import (
	"context"
	"io"
	"runtime"
	"strconv"
	"testing"
)

const moving = `
def application(environ, start_response):
    read = environ['wsgi.input'].read
    while read(65536):
        pass
    start_response('200 OK', [])
    return [b'x' * int(environ['QUERY_STRING'])]
`

// Large bodies go through buffers that are used again. Without that each piece
// of an upload makes 140 KB of garbage, and each answer 80. (Under the race
// detector a sync.Pool drops a quarter of what it is given: 16 and 32.)
func TestLaneGarbage(t *testing.T) {
	const most = 48 << 10
	r := start(t, moving, nil)
	for _, c := range []struct {
		name     string
		up, down int64
		times    int
		pieces   uint64
	}{
		{"upload", 512 * pieceSize, 0, 1, 512},
		{"answers", 0, 2*laneBuffer + 4<<10, 512, 512},
	} {
		t.Run(c.name, func(t *testing.T) {
			ask := func() {
				req := request("POST", "/?"+strconv.FormatInt(c.down, 10), "")
				req.Length, req.Body = c.up, io.LimitReader(zeroes{}, c.up)
				rec := &recorder{}
				if err := r.Serve(context.Background(), req, rec); err != nil || rec.size != c.down {
					t.Fatalf("%v, %d bytes", err, rec.size)
				}
			}
			ask()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range c.times {
				ask()
			}
			runtime.ReadMemStats(&after)
			if made := (after.TotalAlloc - before.TotalAlloc) / c.pieces; made > most {
				t.Errorf("%d bytes of garbage each, more than %d", made, most)
			} else {
				t.Logf("%d bytes of garbage each", made)
			}
		})
	}
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

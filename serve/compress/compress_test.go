package compress

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"testing"

	"liege/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// TestLender: no more than most are lent, and what comes back is lent again,
// whatever was done with it.
func TestLender(t *testing.T) {
	var l Lender
	var lent []*gzip.Writer
	for range most {
		lent = append(lent, l.Gzip(io.Discard))
	}
	for _, z := range lent {
		if z == nil || l.Gzip(io.Discard) != nil {
			t.Fatal("not as many as there are")
		}
	}
	lent[0].Write([]byte("never ended"))
	for _, z := range lent {
		l.Return(z)
	}
	var out bytes.Buffer
	z := l.Gzip(&out)
	z.Write([]byte("text"))
	z.Close()
	r, err := gzip.NewReader(&out)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); string(b) != "text" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

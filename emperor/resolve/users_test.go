package resolve

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestAsked: the same question is asked once in a while, and another at once.
func TestAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		var a Asked
		get := func(q string) {
			t.Helper()
			text, ok := a.get(q, func() ([]byte, bool) { asked = append(asked, q); return []byte(q), q != "nobody" })
			if string(text) != q || ok != (q != "nobody") {
				t.Errorf("%s: %q %t", q, text, ok)
			}
		}
		get("nobody")
		get("nobody")
		get("alice")
		time.Sleep(askedFor)
		get("nobody")
		if got := strings.Join(asked, " "); got != "nobody alice nobody" {
			t.Errorf("asked %s", got)
		}
	})
}

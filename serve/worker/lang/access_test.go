package lang

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAccessHint: who is kept out is told by what, and what to do.
func TestAccessHint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "app.py")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	me := name(os.Geteuid())
	got := AccessHint(file+": Permission denied", "no")
	if want := fmt.Sprintf("%s is 0600 of %s, and the app runs as %s: chown %s %s, or chmod o+r %s", file, me, me, me, file, file); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := AccessHint("chdir "+filepath.Dir(file)+": permission denied", "no"); !strings.Contains(got, "chmod o+x ") {
		t.Errorf("a directory: %q", got)
	}
	for _, other := range []string{file + ": No such file or directory", "/none/at/all: Permission denied", "Permission denied"} {
		if got := AccessHint(other, "no"); got != "no" {
			t.Errorf("%s: %q", other, got)
		}
	}
}

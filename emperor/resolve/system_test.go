package resolve

import (
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the names show is what each would by itself, in that order.
func TestNamed(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"python3", "python2", ".python", "ruby/a", "ruby/b", "php", "x["} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"php", "python*", "none", "no*", "ruby/*", "rub?/", "/php", "x[", "[", "*/../php", "..", "."}
	var want []string
	for _, n := range names {
		want = append(want, OS{}.glob(path.Join(dir, n))...)
	}
	if diff := cmp.Diff(want, OS{}.named(dir, names)); diff != "" {
		t.Error(diff)
	}
	if len(want) < 8 {
		t.Errorf("found %q", want)
	}
}

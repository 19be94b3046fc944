package archtest

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var namedTest = regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz)[A-Za-z0-9]+)`")

// TestAttacks holds that the tests named in docs/security.md exist.
func TestAttacks(t *testing.T) {
	const root = "../.."
	doc, err := os.ReadFile(filepath.Join(root, "docs/security.md"))
	if err != nil {
		t.Fatal(err)
	}
	source := map[string][]byte{}
	named := namedTest.FindAllStringSubmatch(string(doc), -1)
	for _, m := range named {
		dir, name := m[1], m[2]
		if source[dir] == nil {
			files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				source[dir] = append(source[dir], b...)
			}
		}
		if !bytes.Contains(source[dir], []byte("\nfunc "+name+"(")) {
			t.Errorf("docs/security.md names %s.%s, which does not exist", dir, name)
		}
	}
	if len(named) < 150 {
		t.Errorf("%d tests are named: is the page read right?", len(named))
	}
}

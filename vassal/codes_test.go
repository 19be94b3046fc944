package vassal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestCodes: every constant of codes.go is listed once, with a meaning.
func TestCodes(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "codes.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Code") {
			return true
		}
		word, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		if declared[word] {
			t.Errorf("%s is declared twice", word)
		}
		declared[word] = true
		return true
	})
	if len(declared) < 40 {
		t.Fatalf("only %d codes found", len(declared))
	}
	shape := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	listed := map[string]bool{}
	for _, c := range Codes() {
		if listed[c.Name] || !declared[c.Name] || !shape.MatchString(c.Name) || !strings.HasSuffix(c.Meaning, ".") {
			t.Errorf("%q: listed twice, not declared, or not well formed: %q", c.Name, c.Meaning)
		}
		listed[c.Name] = true
	}
	for word := range declared {
		if !listed[word] {
			t.Errorf("%s has no meaning in Codes", word)
		}
	}
}

package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// coded are functions that take a problem's code, with its place.
var coded = map[string]int{"exitWith": 1, "AsProblems": 2, "err": 0, "warn": 0, "note": 0, "fail": 0}

var codeWord = regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)

// TestCodes holds that every code of a problem is a constant of vassal/codes.go,
// from which docs/errors.md is made: programs compare what is listed there.
func TestCodes(t *testing.T) {
	seen := 0
	for _, top := range []string{"cmd", "emperor", "policy", "relay", "sandbox", "selinux", "sendmail", "serve", "vassal"} {
		err := filepath.WalkDir(filepath.Join("../..", top), func(path string, d fs.DirEntry, err error) error {
			if d != nil && d.IsDir() && d.Name() == "asuser" { // its fail takes the step that failed
				return fs.SkipDir
			}
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				var code ast.Expr
				switch n := n.(type) {
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Code" {
						code = n.Value
					}
				case *ast.CallExpr:
					name := ""
					switch f := n.Fun.(type) {
					case *ast.Ident:
						name = f.Name
					case *ast.SelectorExpr:
						name = f.Sel.Name
					}
					if i, ok := coded[name]; ok && i < len(n.Args) {
						code = n.Args[i]
					}
				}
				if code == nil {
					return true
				}
				seen++
				lit, ok := code.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				if word, err := strconv.Unquote(lit.Value); err == nil && codeWord.MatchString(word) {
					t.Errorf("%s: %q is no constant of vassal/codes.go", set.Position(lit.Pos()), word)
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen < 300 {
		t.Errorf("%d codes seen: are they written in another way?", seen)
	}
}

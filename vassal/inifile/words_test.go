package inifile

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitWords(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
		err  string
	}{
		{"node server.js", []string{"node", "server.js"}, ""},
		{"  a\t b  ", []string{"a", "b"}, ""},
		{`a 'b c' "d e" f\ g`, []string{"a", "b c", "d e", "f g"}, ""},
		{`a '' ""x`, []string{"a", "", "x"}, ""},
		{`a "\"\\\n" 'x\y'`, []string{"a", `"\\n`, `x\y`}, ""},
		{`a=$PORT"$X"'$Y'`, []string{"a=$PORT$X$Y"}, ""},
		{"a 'b", nil, "a quote that is not closed"},
		{`a "b\"`, nil, "a quote that is not closed"},
		{`a b\`, nil, "a backslash at the end"},
		{"", nil, "no program"}, {" ", nil, "no program"}, {"''", nil, "no program"}, {"a\x00", nil, "a NUL byte"},
	} {
		got, err := splitWords(c.in)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if d := cmp.Diff(c.want, got); d != "" || text != c.err {
			t.Errorf("%q: %s error %q, want %q", c.in, d, text, c.err)
		}
	}
}

func TestKeyvals(t *testing.T) {
	got, err := keyvals(`cmd="a, b=c",touch=/a;/b,x\,y=1,, z = 2,flag`)
	want := [][2]string{{"cmd", "a, b=c"}, {"touch", "/a;/b"}, {"x,y", "1"}, {"z", " 2"}, {"flag", ""}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(d, err)
	}
	if _, err := keyvals(`cmd="a`); err == nil {
		t.Error("an open quote is accepted")
	}
}

// FuzzSplitWords: words that are quoted come out as they were.
func FuzzSplitWords(f *testing.F) {
	for _, s := range []string{"node server.js", `a 'b c' "d\"" e\ f`, "'", `\`, "\\\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		words, err := splitWords(s)
		if err != nil {
			return
		}
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
		}
		again, err := splitWords(strings.Join(quoted, " "))
		if d := cmp.Diff(words, again); d != "" || err != nil {
			t.Errorf("%q: %s, %v", s, d, err)
		}
	})
}

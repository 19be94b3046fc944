package main

import (
	"strings"
	"testing"
)

// What a tenant writes does nothing to the terminal of who looks (D21).
func TestShown(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\n":                  "plain\ttext\n",
		"\x1b[2J\x1b]0;title\x07 \r\x7f": "?[2J?]0;title? ??",
		"\u009b31m":                      "?31m",
		"\xff\xfe":                       "??",
		"müller … 漢字 🙂":                  "müller … 漢字 🙂",
	} {
		for size := 1; size <= len(in); size++ { // however it is cut
			var out strings.Builder
			w := &shown{w: &out}
			for rest := in; rest != ""; {
				n := min(size, len(rest))
				if got, err := w.Write([]byte(rest[:n])); got != n || err != nil {
					t.Fatal(got, err)
				}
				rest = rest[n:]
			}
			if out.String() != want {
				t.Errorf("%q in pieces of %d: %q, want %q", in, size, out.String(), want)
			}
		}
	}
}

func TestCheckOfHostileFile(t *testing.T) {
	var out, errs strings.Builder
	in := strings.NewReader("[uwsgi]\nuid = nobody\nke\x1b[31my = 1\nsocket = /tmp/\x1b[2J.sock\nchdir = /srv/\x1b[31mno\n")
	run(t.Context(), []string{"check", "-"}, stdio{in, &out, &errs})
	if all := out.String() + errs.String(); strings.Contains(all, "\x1b") || !strings.Contains(all, "ke?[31my") {
		t.Errorf("%q", all)
	}
}

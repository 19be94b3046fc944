package main

import (
	"slices"
	"testing"
)

// What the line says of the file goes along to the program that makes the
// sandbox: another section, or other settings of the operator's, are another app.
func TestServeInSandbox(t *testing.T) {
	for _, tc := range []struct {
		line []string
		want []string // nil: refused
	}{
		{[]string{"/srv/site.ini"}, []string{"--one", "/srv/site.ini"}},
		{[]string{"/srv/site.ini:prod"}, []string{"--one", "/srv/site.ini:prod"}},
		{[]string{"--ini", "/srv/site.ini:prod"}, []string{"--one", "/srv/site.ini:prod"}},
		{[]string{"--config", "/srv/emperor.ini", "/srv/site.ini:prod"}, []string{"--one", "/srv/site.ini:prod", "--config", "/srv/emperor.ini"}},
		{[]string{"/srv/site.ini", "--processes", "2"}, nil},
	} {
		l, err := parseServe(tc.line)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := l.oneArgs(); !slices.Equal(got, tc.want) || (err != nil) != (tc.want == nil) {
			t.Errorf("%v: %v, %v; want %v", tc.line, got, err, tc.want)
		}
	}
}

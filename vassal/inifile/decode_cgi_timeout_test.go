package inifile

import (
	"testing"
	"time"
)

// TestCGITimeout: the seconds of cgi-timeout reach the application, and a file
// that does not say has uWSGI's 60.
func TestCGITimeout(t *testing.T) {
	for line, want := range map[string]time.Duration{
		"cgi-timeout = 2":  2 * time.Second,
		"cgi-timeout = 90": 90 * time.Second,
		"":                 defaultCGITimeout,
	} {
		cfg, problems := decodeText("http = :8080\nhttp-modifier1 = 9\ncgi = /tmp\nuid = 1\ngid = 1\n" + line)
		if cfg.App.CGI == nil || cfg.App.CGI.Timeout != want {
			t.Errorf("%q: got %+v (%v), want %v", line, cfg.App, problems, want)
		}
	}
}

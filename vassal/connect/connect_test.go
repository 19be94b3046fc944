package connect

import (
	"strings"
	"testing"

	"liege/vassal"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct{ word, want, hint string }{
		{"127.0.0.1:5432", "127.0.0.1:5432", ""},
		{"10.0.0.7:06379", "10.0.0.7:6379", ""},
		{"[::1]:25", "[::1]:25", ""},
		{"[2001:DB8::0:1]:25", "[2001:db8::1]:25", ""},
		{"[::ffff:10.0.0.7]:25", "10.0.0.7:25", ""},
		{"unix:/run/mysqld/mysqld.sock", "unix:/run/mysqld/mysqld.sock", ""},
		{"unix:/var/run/x/../y.sock", "unix:/run/y.sock", ""},
		{"/run/y.sock", "unix:/run/y.sock", ""},
		{"127.0.0.1", "", "127.0.0.1:5432"},
		{"::1", "", "[::1]:5432"},
		{"[::1]", "", "[::1]:5432"},
		{"fe80::1:25", "", "[fe80::1:25]:5432"},
		{"localhost:5432", "", "127.0.0.1:5432"},
		{"db.internal:5432", "", "getent hosts db.internal"},
		{"10.0.0.7:0", "", "5432"},
		{"10.0.0.7:65536", "", "5432"},
		{"10.0.0.7:http", "", "5432"},
		{"10.0.0:80", "", "getent"},
		{"0.0.0.0:80", "", "127.0.0.1"},
		{"[::]:80", "", "127.0.0.1"},
		{"224.0.0.1:80", "", "127.0.0.1"},
		{"255.255.255.255:80", "", "127.0.0.1"},
		{"[fe80::1%eth0]:80", "", "127.0.0.1"},
		{"[fe80::1]:80", "", "127.0.0.1"},
		{"169.254.169.254:80", "169.254.169.254:80", ""},
		{"@name", "", "127.0.0.1"},
		{"unix:@name", "", "unix:/run"},
		{"unix:run/x.sock", "", "unix:/run"},
		{"unix:", "", "unix:/run"},
		{"unix:/", "", ""},
		{"unix:/" + strings.Repeat("x", 107), "", ""},
		{"postgres://127.0.0.1:5432", "", "127.0.0.1"},
		{"", "", "127.0.0.1"},
		{"db", "", "127.0.0.1"},
	} {
		got, wrong, hint := Parse(tc.word)
		if got != tc.want || (wrong == "") != (tc.want != "") || !strings.Contains(hint, tc.hint) {
			t.Errorf("%q: %q, wrong %q, hint %q; want %q with hint %q", tc.word, got, wrong, hint, tc.want, tc.hint)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"127.0.0.1:5432", "[::1]:25", "unix:/run/x.sock", "fe80::1", "localhost:1", "unix:@x", "[1]:2", "]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, wrong, _ := Parse(s)
		if (got == "") != (wrong != "") {
			t.Fatalf("%q: %q and %q", s, got, wrong)
		}
		if again, wrong, _ := Parse(got); got != "" && again != got {
			t.Fatalf("%q: %q, and then %q (%s)", s, got, again, wrong)
		}
	})
}

func TestRules(t *testing.T) {
	for _, rule := range []string{"127.0.0.1", "db:1", "10.0.0.0/33:1", "127.0.0.1:0", "127.0.0.1:9-1", "::1:25", "[127.0.0.1]:25", "unix:run", "unix:/[", "/run/x", ""} {
		if Rule(rule) {
			t.Errorf("%q is taken for a rule", rule)
		}
		if Within(rule, vassal.Connection{Address: "127.0.0.1:1"}) {
			t.Errorf("%q covers something", rule)
		}
	}
	for _, tc := range []struct {
		rule, addr string
		want       bool
	}{
		{"127.0.0.1:5432", "127.0.0.1:5432", true},
		{"127.0.0.1:5432", "127.0.0.1:5433", false},
		{"127.0.0.1:5432", "127.0.0.2:5432", false},
		{"127.0.0.1:5000-6000", "127.0.0.1:5432", true},
		{"127.0.0.1:5000-6000", "127.0.0.1:6001", false},
		{"10.0.0.0/8:6379", "10.9.8.7:6379", true},
		{"10.0.0.0/8:6379", "11.0.0.1:6379", false},
		{"[::1]:25", "[::1]:25", true},
		{"[fd00::]/8:25", "[fd12::1]:25", true},
		{"[::1]:25", "127.0.0.1:25", false},
		{"0.0.0.0/0:25", "[::1]:25", false},
		{"unix:/run/mysqld/mysqld.sock", "unix:/run/mysqld/mysqld.sock", true},
		{"unix:/var/run/mysqld/mysqld.sock", "unix:/run/mysqld/mysqld.sock", true},
		{"unix:/run/*/x.sock", "unix:/run/a/x.sock", true},
		{"unix:/run/*/x.sock", "unix:/run/a/b/x.sock", false},
		{"unix:/run/**", "unix:/run/a/b/x.sock", true},
		{"unix:/run/**", "unix:/runner/x.sock", false},
		{"unix:/run/a", "127.0.0.1:25", false},
		{"127.0.0.1:25", "unix:/run/a", false},
	} {
		if !Rule(tc.rule) {
			t.Errorf("%q is not taken for a rule", tc.rule)
		}
		if got := Within(tc.rule, vassal.Connection{Address: tc.addr}); got != tc.want {
			t.Errorf("%q within %q: %v", tc.addr, tc.rule, got)
		}
	}
}

package route

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"liege/serve/exchange"
	"liege/vassal"
	"liege/vassal/route"
)

// nonMatching are n rules of the kinds that files have, none of which concerns
// the request.
func nonMatching(n int) string {
	var b strings.Builder
	for i := range n {
		switch i % 5 {
		case 0:
			fmt.Fprintf(&b, "route = ^/section%d/ redirect:https://example.org/$1\n", i)
		case 1:
			fmt.Fprintf(&b, "route = \\.x%d$ return:403\n", i)
		case 2:
			fmt.Fprintf(&b, "route-if = equal:${HTTP_HOST};site%d.example.org addvar:SITE=%d\n", i, i)
		case 3:
			fmt.Fprintf(&b, "route-user-agent = (?i)bot%d/[0-9]+ break:403\n", i)
		case 4:
			fmt.Fprintf(&b, "route-if = regexp:${QUERY_STRING};(^|&)id%d=([0-9]+) rewrite:/item/$2\n", i)
		}
	}
	return b.String()
}

type sink struct{}

func (sink) Head(int, string, []exchange.Field) error { return nil }
func (sink) Write(p []byte) (int, error)              { return len(p), nil }
func (sink) Flush() error                             { return nil }
func (sink) File(exchange.File, int64, int64) error   { return nil }
func (sink) Started() bool                            { return true }

func quietApp(_ context.Context, _ *exchange.Request, w exchange.Response) error {
	return w.Head(200, "OK", nil)
}

func benchRequest() *exchange.Request {
	return &exchange.Request{Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"}, {Name: "REQUEST_URI", Value: "/shop/item/12?lang=en"},
		{Name: "PATH_INFO", Value: "/shop/item/12"}, {Name: "QUERY_STRING", Value: "lang=en"}, {Name: "SERVER_PROTOCOL", Value: "HTTP/1.1"},
		{Name: "REMOTE_ADDR", Value: "192.0.2.7"}, {Name: "HTTP_HOST", Value: "example.org"}, {Name: "HTTP_USER_AGENT", Value: "Mozilla/5.0 (X11; Linux x86_64)"},
		{Name: "HTTP_ACCEPT", Value: "*/*"}, {Name: "HTTP_COOKIE", Value: "a=b"}}}
}

// TestNoAllocation: a request that none of 100 rules concerns allocates
// nothing here.
func TestNoAllocation(t *testing.T) {
	s := newSite(t, nonMatching(100), vassal.Static{}, quietApp)
	r, ctx := benchRequest(), t.Context()
	serve := func() {
		if err := s.h.Serve(ctx, r, sink{}); err != nil {
			t.Error(err)
		}
	}
	serve() // regular expressions make their tables at first use
	if n := testing.AllocsPerRun(1000, serve); n >= 1 {
		t.Errorf("%v allocations for a request", n)
	}
}

func BenchmarkRules(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newSite(b, nonMatching(n), vassal.Static{}, quietApp)
			r, ctx := benchRequest(), b.Context()
			b.ReportAllocs()
			for b.Loop() {
				if err := s.h.Serve(ctx, r, sink{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzRequest: whatever a request holds, rules neither panic nor let its text
// be taken for variables or for header fields.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{"/a", "/a/${HTTP_HOST}", "/x\r\nSet-Cookie: a=b", "/%00/../..//", "/\xff$0$1${", ""} {
		f.Add(s, s, s)
	}
	s := newSite(f, `route = (?s)^/a(.*)(b?) rewrite:/x$1?$2
route-if = contains:${QUERY_STRING};a addvar:Q=${qs[a]}${cookie[a]}${hex[PATH_INFO]}
route-if = ipv4in:${HTTP_X};10.0.0.0/8 last:
route-run = addheader:X-A: ${HTTP_X}
route = (?s)^/r(.*) redirect:/$1${HTTP_X}
response-route-run = addheader:X-B: ${PATH_INFO}
`, vassal.Static{}, nil)
	f.Fuzz(func(t *testing.T, path, qs, x string) {
		a, _, err := s.ask(t, "GET /", "PATH_INFO="+path, "QUERY_STRING="+qs, "HTTP_X="+x)
		if err != nil {
			t.Fatal(err)
		}
		for _, fl := range a.fields {
			if strings.ContainsAny(fl.Value, "\r\n\x00") {
				t.Errorf("%q", fl)
			}
		}
	})
}

// FuzzMatch: what is told without the expression is what it says.
func FuzzMatch(f *testing.F) {
	for _, p := range []string{`^/a`, `^/ab+c`, `(?i)bot9/[0-9]+`, `(^|&)id=([0-9]+)`, `\.php(?:\n?\z)`, `(?i)Kiss`, `(ab){2,}c`, `a|bc`, `(?i)é`, `x*abc`, `^$`} {
		f.Add(p, "/abBOT9/12&id=5.php\n")
	}
	f.Fuzz(func(t *testing.T, expr, s string) {
		expr, err := route.Translate(expr) // bounds its size
		if err != nil {
			return
		}
		m, err := newMatcher(expr)
		if err != nil {
			t.Fatal(err)
		}
		want := m.re.FindStringSubmatchIndex(s)
		if got := m.match(&run{}, s, false); got != (want != nil) {
			t.Errorf("%q on %q: %v, want %v", expr, s, got, want != nil)
		}
		if x := (&run{}); m.match(x, s, true) != (want != nil) {
			t.Errorf("%q on %q with groups: want %v", expr, s, want)
		}
	})
}

package route

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/cache"
	"liege/serve/exchange"
	"liege/vassal"
)

// TestCacheRules: what rules do with the items "page" and "n" of the first
// cache, and "key" of the other.
func TestCacheRules(t *testing.T) {
	testenv.Leaks(t)
	const app = "200 OK | X-App: yes | app "
	for _, c := range []struct{ lines, line, want, then string }{
		{"route = ^/(.*) cache:key=$1", "GET /page", "200 | Content-Type: text/html | cached", ""},
		{"route = ^/(.*) cache:key=$1", "GET /none", app + "/none?", ""},
		{"route-run = cache:key=page,content_type=a/b,content_encoding=x,no_cl=1", "GET /", "200 | Content-Type: a/b | Content-Encoding: x | cached", ""},
		{"route-run = cache:key=style.css,name=${qs[c]},mime=1", "GET /?c=other", "200 | Content-Type: text/css | body", ""},
		{"route-run = cache:key=style.css,name=${qs[c]},mime=1", "GET /?c=none", app + "/?c=none", ""},
		{"route-run = cache-continue:key=page", "GET /", "200 OK | X-App: yes | cachedapp /?", ""},
		{"route-if = incache:key=${QUERY_STRING},name=other return:404", "GET /?key", "404 | Content-Type: text/plain | Not Found", ""},
		{"route-if-not = incache:key=page return:404", "GET /", app + "/?", ""},
		{"route-if = incache:key=page,name=other return:404", "GET /", app + "/?", ""},
		{"route-run = cachevar:key=page,var=V\nroute-run = addheader:V: ${V}", "GET /", "200 OK | X-App: yes | V: cached | app /?", ""},
		{"route-run = cachevar:key=n,var=V,num=1\nroute-run = addheader:V: ${V}", "GET /", "200 OK | X-App: yes | V: 7 | app /?", ""},
		{"route-run = cachevar:key=page,var=V,num=1\nroute-run = addheader:V: ${V}", "GET /", "200 OK | X-App: yes | V: 0 | app /?", ""},
		{"route-run = cachevar:key=n,var=V", "GET /", "error 500", ""},
		{"route-run = cachevar:key=none,var=V\nroute-run = addheader:V: ${V}", "GET /", "200 OK | X-App: yes | V:  | app /?", ""},
		{"route-run = cacheset:key=new,value=${PATH_INFO}", "GET /v", app + "/v?", "new=/v"},
		{"route-run = cacheset:key=page,value=${PATH_INFO}", "GET /v", app + "/v?", "page=cached"},
		{"route-run = cacheset:key=${PATH_INFO},value=v", "GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "error 500", ""},
		{"route-run = cacheinc:key=n", "GET /", app + "/?", "n=\x08\x00\x00\x00\x00\x00\x00\x00"},
		{"route-run = cachedec:key=n,value=${qs[by]}", "GET /?by=5", app + "/?by=5", "n=\x02\x00\x00\x00\x00\x00\x00\x00"},
		{"route-run = cachemul:key=n", "GET /", app + "/?", "n=\x0e\x00\x00\x00\x00\x00\x00\x00"},
		{"route-run = cachediv:key=n,value=7", "GET /", app + "/?", "n=\x01\x00\x00\x00\x00\x00\x00\x00"},
		{"route-run = cacheinc:key=page", "GET /", "error 500", "page=cached"},
		{"route-run = cachestore:key=new,expires=9", "GET /v", app + "/v?", "new=app /v?"},
		{"route-run = cache-store:key=page,value=told", "GET /v", app + "/v?", "page=told"},
		{"response-route-run = cachestore:key=new", "GET /v", app + "/v?", "new=app /v?"},
		{"route-run = send:hi_\nroute-run = cachestore:key=new", "GET /v", "200 OK | X-App: yes | hi_app /v?", "new=hi_app /v?"},
		{"route-run = cachestore:key=new", "HEAD /v", app + "/v?", "new="},
		{"route-run = cachestore:key=new\nroute-run = return:404", "GET /v", "404 | Content-Type: text/plain | Not Found", "new="},
		{"route-run = cachestore:key=new,status=404\nroute-run = return:404", "GET /v", "404 | Content-Type: text/plain | Not Found", "new=Not Found"},
		{"route-run = cachestore:key=new", "GET /" + strings.Repeat("long", 30), app + "/" + strings.Repeat("long", 30) + "?", "new="},
	} {
		t.Run(c.lines+" "+c.line, func(t *testing.T) {
			s := newSite(t, c.lines, vassal.Static{}, nil)
			first := s.cache.Named("")
			_ = first.Set("page", []byte("cached"), cache.Add, 0)
			_, _ = first.Inc("n", 7, 0)
			_ = s.cache.Named("other").Set("key", []byte("body"), cache.Add, 0)
			_ = s.cache.Named("other").Set("style.css", []byte("body"), cache.Add, 0)
			if c.want != "" {
				s.want(t, c.want, c.line)
			} else if _, _, err := s.ask(t, c.line); err != nil {
				t.Error(err)
			}
			if key, want, _ := strings.Cut(c.then, "="); key != "" {
				if got, _ := first.Get(nil, key); string(got) != want {
					t.Errorf("%s is %q, want %q", key, got, want)
				}
			}
		})
	}
}

// TestCachedPage: the first request fills the cache, the second does not reach
// the application, and both kinds of body are there.
func TestCachedPage(t *testing.T) {
	asked := 0
	s := newSite(t, `route-if = contains:${HTTP_ACCEPT_ENCODING};gzip cache:key=gz,content_encoding=gzip,name=other
route = ^/(.+) cache:key=$1,name=other
route = ^/(.+) cachestore:key=$1,gzip=gz,name=other,expires=60
`, vassal.Static{}, func(_ context.Context, r *exchange.Request, w exchange.Response) error {
		asked++
		if err := w.Head(200, "", nil); err != nil {
			return err
		}
		_, err := io.WriteString(w, "page page page page page page")
		return err
	})
	s.want(t, "200 | page page page page page page", "GET /p")
	a, r, err := s.ask(t, "GET /p")
	if err != nil || a.body.String() != "page page page page page page" || r.Info.Backend != "cache" || !strings.Contains(a.String(), "Expires: ") {
		t.Error(a, r.Info.Backend, err)
	}
	a, _, err = s.ask(t, "GET /p", "HTTP_ACCEPT_ENCODING=gzip")
	z, err2 := gzip.NewReader(&a.body)
	if err != nil || err2 != nil {
		t.Fatal(a, err, err2)
	}
	if b, err := io.ReadAll(z); err != nil || string(b) != "page page page page page page" {
		t.Errorf("%q %v", b, err)
	}
	if asked != 1 {
		t.Errorf("the application was asked %d times", asked)
	}
}

// TestStoreOnlyWhole: what was cut short, or encoded for one client, is no
// answer for another.
func TestStoreOnlyWhole(t *testing.T) {
	for _, c := range []struct {
		fields []exchange.Field
		err    error
		want   string
	}{{nil, nil, "half"}, {nil, errors.New("the worker died"), ""}, {[]exchange.Field{{Name: "content-encoding", Value: "br"}}, nil, ""},
		{[]exchange.Field{{Name: "Cache-Control", Value: "max-age=0, Private"}}, nil, ""}, {[]exchange.Field{{Name: "cache-control", Value: "no-store"}}, nil, ""},
		{[]exchange.Field{{Name: "Cache-Control", Value: "public, max-age=5"}}, nil, "half"}} {
		s := newSite(t, "route-run = cachestore:key=k", vassal.Static{}, func(_ context.Context, r *exchange.Request, w exchange.Response) error {
			if err := w.Head(200, "", c.fields); err != nil {
				return err
			}
			_, _ = io.WriteString(w, "half")
			return c.err
		})
		_, _, _ = s.ask(t, "GET /")
		if got, _ := s.cache.Named("").Get(nil, "k"); string(got) != c.want {
			t.Errorf("%v: %q is kept", c, got)
		}
	}
}

// TestStoreOnlyShared: what answers one client, or one request, answers no
// other. The control of each: with what the last column adds, it is kept.
func TestStoreOnlyShared(t *testing.T) {
	field := func(name, value string) []exchange.Field { return []exchange.Field{{Name: name, Value: value}} }
	for _, c := range []struct {
		name, rule, line string
		vars             []string
		status           int
		fields           []exchange.Field
		want             string
	}{
		{"GET", "key=k", "GET /", nil, 200, nil, "body"},
		{"POST", "key=k", "POST /", nil, 200, nil, ""},
		{"POST, and a value of the rule's", "key=k,value=v", "POST /", nil, 200, nil, ""},
		{"PUT", "key=k", "PUT /", nil, 200, nil, ""},
		{"another method", "key=k", "get /", nil, 200, nil, ""},
		{"the path of another", "key=k", "GET //a", nil, 200, nil, ""},
		{"shorter than it says", "key=k", "GET /", nil, 200, field("Content-Length", "9"), ""},
		{"shorter, and a value of the rule's", "key=k,value=v", "GET /", nil, 200, field("content-length", "9"), ""},
		{"as long as it says", "key=k", "GET /", nil, 200, field("Content-Length", "4"), "body"},
		{"of no length", "key=k", "GET /", nil, 200, field("Content-Length", "x"), ""},
		{"a cookie", "key=k", "GET /", nil, 200, field("set-cookie", "a=b"), ""},
		{"no-cache", "key=k", "GET /", nil, 200, field("Cache-Control", "no-cache"), ""},
		{"a part", "key=k,status=206", "GET /", nil, 206, nil, ""},
		{"a part of another status", "key=k", "GET /", nil, 200, field("Content-Range", "bytes 0-3/9"), ""},
		{"not modified", "key=k,status=304", "GET /", nil, 304, nil, ""},
		{"a password", "key=k", "GET /", []string{basic("joe:pw")}, 200, nil, ""},
		{"a password, for all", "key=k", "GET /", []string{basic("joe:pw")}, 200, field("Cache-Control", "public"), "body"},
		{"varies with all", "key=k", "GET /", nil, 200, field("Vary", "*"), ""},
		{"varies", "key=k", "GET /", nil, 200, field("vary", "accept-encoding, Accept-Language"), ""},
		{"varies with what the key is a part of", "key=k${HTTP_ACCEPT_LANGUAGE}", "GET /", nil, 200, field("Vary", "Accept"), ""},
		{"varies with the key", "key=k${HTTP_ACCEPT_LANGUAGE}", "GET /", nil, 200, field("Vary", "Accept-Encoding, Origin, Accept-Language"), "body"},
		{"varies with cookies", "key=k", "GET /", nil, 200, field("Vary", "Cookie"), ""},
		{"varies with a cookie of the key", "key=k${cookie[lang]}", "GET /", nil, 200, field("Vary", "Cookie"), "body"},
		{"varies with the cookies of the key", "key=k${cookie[a]}${cookie[b]}", "GET /", []string{"HTTP_COOKIE=a=; b="}, 200, field("Vary", "Cookie"), "body"},
		{"and with another", "key=k${cookie[lang]}", "GET /", []string{"HTTP_COOKIE=lang=; session=joe"}, 200, field("Vary", "Cookie"), ""},
		{"and with one of no name", "key=k${cookie[lang]}", "GET /", []string{"HTTP_COOKIE=joe"}, 200, field("Vary", "Cookie"), ""},
		{"of which there are two", "key=k${cookie[lang]}", "GET /", []string{"HTTP_COOKIE=lang=; lang=de"}, 200, field("Vary", "Cookie"), ""},
	} {
		s := newSite(t, "route-run = cachestore:"+c.rule, vassal.Static{}, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			if err := w.Head(c.status, "", c.fields); err != nil {
				return err
			}
			_, err := io.WriteString(w, "body")
			return err
		})
		_, _, _ = s.ask(t, c.line, c.vars...)
		if got, _ := s.cache.Named("").Get(nil, "k"); string(got) != c.want {
			t.Errorf("%s: %q is kept, want %q", c.name, got, c.want)
		}
	}
	r := &exchange.Request{Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"}}, Body: strings.NewReader("x"), Length: -1}
	s := newSite(t, "route-run = cachestore:key=k", vassal.Static{}, nil)
	if err := s.h.Serve(t.Context(), r, &answered{}); err != nil || s.cache.Named("").Exists("k") {
		t.Errorf("the answer to GET with a body is kept, or %v", err)
	}
}

// TestOnlyReadsAreCached: what is to be carried out is, whatever the cache has.
func TestOnlyReadsAreCached(t *testing.T) {
	s := newSite(t, "route-run = cache:key=k", vassal.Static{}, nil)
	if err := s.cache.Named("").Set("k", []byte("cached"), cache.Add, 0); err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]string{"GET": "200 | Content-Type: text/html | cached", "HEAD": "200 | Content-Type: text/html | cached",
		"POST": "200 OK | X-App: yes | app /?", "PUT": "200 OK | X-App: yes | app /?", "DELETE": "200 OK | X-App: yes | app /?"} {
		s.want(t, want, method+" /")
	}
}

// TestFullCacheGuards: a number that cannot be kept does not let anybody pass.
func TestFullCacheGuards(t *testing.T) {
	s := newSite(t, `route-run = cacheinc:key=${REMOTE_ADDR},expires=60
route-run = cachevar:key=${REMOTE_ADDR},var=SEEN,num=1
route-if = ishigher:${SEEN};2 return:429
`, vassal.Static{}, nil)
	const app = "200 OK | X-App: yes | app /?"
	for i := range 5 {
		want := app
		if i == 4 { // four items
			want = "error 500"
		}
		s.want(t, want, "GET /", fmt.Sprint("REMOTE_ADDR=192.0.2.", i))
	}
	s.want(t, app, "GET /", "REMOTE_ADDR=192.0.2.1")
	s.want(t, "429 | Content-Type: text/plain | Too Many Requests", "GET /", "REMOTE_ADDR=192.0.2.1")
}

// BenchmarkCacheHit: what a hit costs.
func BenchmarkCacheHit(b *testing.B) {
	s := newSite(b, "route-run = cache:key=page", vassal.Static{}, nil)
	if err := s.cache.Named("").Set("page", bytes.Repeat([]byte("x"), 100), cache.Add, time.Hour); err != nil {
		b.Fatal(err)
	}
	r := &exchange.Request{Body: strings.NewReader(""), Vars: []exchange.Var{{Name: "REQUEST_METHOD", Value: "GET"}}}
	w := &nowhere{}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.h.Serve(b.Context(), r, w); err != nil {
			b.Fatal(err)
		}
	}
}

// nowhere is a Response that keeps nothing.
type nowhere struct{}

func (*nowhere) Head(int, string, []exchange.Field) error { return nil }
func (*nowhere) Write(p []byte) (int, error)              { return len(p), nil }
func (*nowhere) Flush() error                             { return nil }
func (*nowhere) File(exchange.File, int64, int64) error   { return os.ErrInvalid }
func (*nowhere) Started() bool                            { return false }

// TestGzipAllLent: an answer for which no compressor is left is sent as it is.
func TestGzipAllLent(t *testing.T) {
	s := newSite(t, "route-run = gzip:", vassal.Static{}, nil)
	for s.h.cfg.Compressors.Gzip(io.Discard) != nil { // others' clients do not read
	}
	a, _, err := s.ask(t, "GET /", "HTTP_ACCEPT_ENCODING=gzip")
	if got := a.String(); err != nil || a.body.String() != "app /?" || strings.Contains(got, "Content-Encoding") || !strings.Contains(got, "Vary: Accept-Encoding") {
		t.Errorf("%s, %v", got, err)
	}
}

// TestGzipReturns: a compressor comes back, whatever becomes of the answer.
func TestGzipReturns(t *testing.T) {
	fails := errors.New("the application fails")
	s := newSite(t, "route-run = gzip:", vassal.Static{}, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
		if err := w.Head(200, "", nil); err != nil {
			return err
		}
		return fails
	})
	for range 100 {
		if _, _, err := s.ask(t, "GET /", "HTTP_ACCEPT_ENCODING=gzip"); !errors.Is(err, fails) {
			t.Fatal(err)
		}
	}
	if s.h.cfg.Compressors.Gzip(io.Discard) == nil {
		t.Error("all compressors are lost")
	}
}

// TestGzip: what the client takes is compressed, once, and kept as it was.
func TestGzip(t *testing.T) {
	text := strings.Repeat("text ", 100)
	for _, c := range []struct {
		line, accept string
		fields       []exchange.Field
		status       int
		packed       bool
	}{
		{"GET /", "gzip", nil, 200, true}, {"GET /", "br, gzip;q=0.5", []exchange.Field{{Name: "Content-Length", Value: "500"}, {Name: "ETag", Value: `"a"`}}, 200, true},
		{"GET /", "", nil, 200, false}, {"GET /", "gzip;q=0", nil, 200, false}, {"GET /", "gzip", []exchange.Field{{Name: "Content-Encoding", Value: "br"}}, 200, false},
		{"GET /", "gzip", []exchange.Field{{Name: "Content-Range", Value: "bytes 0-499/900"}}, 206, false}, {"GET /", "gzip", nil, 404, true},
	} {
		s := newSite(t, "route-run = send:first \nroute-run = gzip:\nroute-run = cachestore:key=k", vassal.Static{}, func(_ context.Context, _ *exchange.Request, w exchange.Response) error {
			if err := w.Head(c.status, "", c.fields); err != nil {
				return err
			}
			if _, err := io.WriteString(w, text); err != nil {
				return err
			}
			return w.Flush()
		})
		a, _, err := s.ask(t, c.line, "HTTP_ACCEPT_ENCODING="+c.accept)
		if err != nil || a.status != c.status {
			t.Fatal(a.status, err)
		}
		got, field := a.body.String(), a.String()
		if c.packed {
			z, err := gzip.NewReader(&a.body)
			if err != nil {
				t.Errorf("%+v: %v", c, err)
				continue
			}
			b, err := io.ReadAll(z)
			if got = string(b); err != nil || !strings.Contains(field, "Content-Encoding: gzip") || !strings.Contains(field, "Vary: Accept-Encoding") {
				t.Errorf("%+v: %s %v", c, field, err)
			}
			for _, f := range a.fields {
				if f.Name == "Content-Length" || f.Name == "ETag" && f.Value != `W/"a"` {
					t.Errorf("%+v: %v", c, f)
				}
			}
		}
		if got != "first"+text {
			t.Errorf("%+v: %.40q", c, got)
		}
	}
}

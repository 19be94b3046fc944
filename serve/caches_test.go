package serve

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"liege/internal/testenv"
	"liege/serve/cache"
	"liege/serve/exchange"
	"liege/vassal"
	"liege/vassal/inifile"
)

// fromFile decodes a vassal's file for the core.
func fromFile(t *testing.T, text string) *vassal.App {
	t.Helper()
	src := inifile.Source{Path: "/etc/vassals/shop.ini", Text: []byte("[uwsgi]\nuid = nobody\nhttp-socket = 127.0.0.1:1\nstats = 127.0.0.1:2\nwsgi-file = app.py\n" + text), Trust: vassal.Trust{Operator: true}}
	f, ps := inifile.Read(src, inifile.NewOSHost(nil), inifile.ReadOptions{Known: inifile.Known})
	cfg, more := inifile.Decode(f, inifile.Policy{})
	for _, p := range append(ps, more...) {
		if p.Severity != vassal.Note {
			t.Fatal(p)
		}
	}
	cfg.App.Listen = nil
	for _, l := range cfg.Listen {
		cfg.App.Listen = append(cfg.App.Listen, vassal.Listener{Protocol: l.Protocol, Address: l.Address})
	}
	return &cfg.App
}

// cacheUser is an application that is given the caches.
type cacheUser struct {
	*fake
	set *cache.Set
}

func (c *cacheUser) UseCaches(s *cache.Set) { c.set = s }

// TestCheckCache: what is in the cache is the answer, whatever there is
// besides; the caches are in the stats, and a store survives the core.
func TestCheckCache(t *testing.T) {
	testenv.Leaks(t)
	dir := t.TempDir()
	text := `cache2 = name=other,items=3
cache2 = name=urls,items=5,blocksize=200,store=` + dir + `/store
check-cache = urls
add-cache-item = urls /cgi?x=Status: 201 Made
add-cache-item = urls /raw=HTTP/1.0 200 OK
add-cache-item = urls /junk=junk
`
	app := fromFile(t, text)
	pool := &cacheUser{fake: newFake(hello)}
	addrs, _, stop := startWith(t, app, pool)
	urls := pool.set.Named("urls")
	if err := urls.Set("/page", []byte("HTTP/1.1 404 Not Here\r\nContent-Type: text/x\r\n\r\nbody"), cache.Add, time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ line, status, end string }{
		{"GET /page", "404 Not Here", "\r\n\r\nbody"},
		{"HEAD /page", "404 Not Here", "\r\n\r\n"},
		{"POST /page", "200 OK", "app"},
		{"GET /page?", "200 OK", "app"},
		{"GET /junk", "502 Bad Gateway", "\n"},
	} {
		got := ask(t, addrs[0], c.line+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 "+c.status) || !strings.HasSuffix(got, c.end) {
			t.Errorf("%s: %s", c.line, got)
		}
	}
	var st struct{ Caches []cache.Stats }
	if err := json.Unmarshal([]byte(ask(t, addrs[1], "")), &st); err != nil {
		t.Fatal(err)
	}
	if len(st.Caches) != 2 || st.Caches[0].Name != "other" || st.Caches[1].Items != 4 || st.Caches[1].Hits != 3 || st.Caches[1].Miss != 1 || st.Caches[1].MaxItems != 5 {
		t.Errorf("%+v", st.Caches)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	again := &cacheUser{fake: newFake(hello)}
	startWith(t, fromFile(t, text), again)
	if got, _ := again.set.Named("urls").Get(nil, "/page"); !strings.HasSuffix(string(got), "body") {
		t.Errorf("the store has %q", got)
	}
	if again.set.Named("other").Stats().Items != 0 {
		t.Error("a cache without a store is kept")
	}
}

// TestNoCaches: without a line about them there is nothing in the stats, and
// nobody is told of them.
func TestNoCaches(t *testing.T) {
	pool := &cacheUser{fake: newFake(func(_ context.Context, r *exchange.Request, w exchange.Response) error { return w.Head(204, "", nil) })}
	addrs, _, _ := startWith(t, fromFile(t, ""), pool)
	if got := ask(t, addrs[1], ""); strings.Contains(got, "caches") || pool.set != nil {
		t.Error(got)
	}
}

// TestCacheUnusable: the core does not start, and says which line it was.
func TestCacheUnusable(t *testing.T) {
	name := t.TempDir() + "/store"
	if err := os.WriteFile(name, []byte("something"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := New(fromFile(t, "cache2 = name=a,items=5,store="+name+"\n"), newFake(nil), &output{}, nil)
	if p, ok := errors.AsType[*vassal.Problem](err); !ok || p.Line != 6 || p.Code != vassal.CodeBadCache {
		t.Errorf("%v", err)
	}
}

package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"liege/vassal"
)

func stored(name string) vassal.Cache {
	return vassal.Cache{Name: "mine", Items: 10, Blocks: 20, BlockSize: 100, KeySize: 20, Bitmap: true, Store: name, At: vassal.Origin{File: "a.ini", Line: 3}}
}

func content(c *Cache) string {
	keys := c.Keys()
	slices.Sort(keys)
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, "%s=%s ", k, value(c, k))
	}
	return b.String()
}

// TestStore: what one core wrote, another reads.
func TestStore(t *testing.T) {
	name := filepath.Join(t.TempDir(), "store")
	_, a := one(t, stored(name))
	_ = a.Set("k", []byte("value"), Add, 0)
	_ = a.Set("long", bytes.Repeat([]byte("x"), 350), Add, time.Hour)
	_, _ = a.Inc("n", 7, 0)
	a.save(true)
	if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatal(fi, err)
	}
	_, b := one(t, stored(name))
	if content(b) != content(a) || b.Num("n") != 7 {
		t.Errorf("%q, want %q", content(b), content(a))
	}
	if _, at, _ := b.Lookup(nil, "long"); at.IsZero() {
		t.Error("the time to live is lost")
	}
	// One that is smaller takes what fits.
	small := stored(name)
	small.Items, small.KeySize, small.Bitmap = 1, 3, false
	_, c := one(t, small)
	if got := content(c); got != "k=value " && !strings.HasPrefix(got, "n=") {
		t.Errorf("%q", got)
	}
}

// TestHandover: two generations use a store at once.
func TestHandover(t *testing.T) {
	name := filepath.Join(t.TempDir(), "store")
	_, old := one(t, stored(name))
	_ = old.Set("first", []byte("1"), Add, 0)
	old.save(true)
	_, fresh := one(t, stored(name))
	_ = fresh.Set("both", []byte("new"), Add, 0)
	_ = old.Set("both", []byte("old"), Add, 0)
	_ = old.Set("late", []byte("2"), Add, 0)
	old.save(true) // at its end
	fresh.merge()
	const want = "both=new first=1 late=2 "
	if got := content(fresh); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	fresh.save(true)
	_ = old.Set("later", []byte("3"), Add, 0)
	old.save(true) // too late
	fresh.merge()
	_, third := one(t, stored(name))
	if content(third) != want || content(fresh) != want {
		t.Errorf("%q, %q", content(third), content(fresh))
	}
}

// TestForeignStore: a file that is none of ours stays as it is.
func TestForeignStore(t *testing.T) {
	name := filepath.Join(t.TempDir(), "store")
	for _, text := range []string{"something else, and longer than that", magic[:5]} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := New([]vassal.Cache{stored(name)}, "/", slog.New(slog.DiscardHandler))
		var p *vassal.Problem
		if !errors.As(err, &p) || p.Line != 3 || !strings.Contains(p.Message, "store_delete") {
			t.Errorf("%q: %v", text, err)
		}
		if b, _ := os.ReadFile(name); string(b) != text {
			t.Error("the file was changed")
		}
	}
	cfg := stored(name)
	cfg.StoreDelete = true
	_, c := one(t, cfg)
	_ = c.Set("k", []byte("v"), Add, 0)
	c.save(true)
	if _, d := one(t, stored(name)); value(d, "k") != "v" {
		t.Error("store_delete did not replace it")
	}
}

// TestDamagedStore: none of it is used, and it is written anew.
func TestDamagedStore(t *testing.T) {
	name := filepath.Join(t.TempDir(), "store")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, a := one(t, stored(name))
	_ = a.Set("k", []byte("value"), Add, 0)
	a.save(true)
	whole, _ := os.ReadFile(name)
	for i := len(magic); i <= len(whole); i++ {
		b := slices.Clone(whole)
		if i == len(whole) {
			b = b[:i-1]
		} else if b[i] ^= 1; i < len(magic)+8 {
			continue // the time of writing: only the sum knows
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, c := one(t, stored(name)); content(c) != "" {
			t.Errorf("byte %d: %q", i, content(c))
		}
	}
}

func TestStoreCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "none", "store")
	_, c := one(t, stored(name))
	_ = c.Set("k", []byte("v"), Add, 0)
	c.save(true)
	if !c.saved.failed {
		t.Error("no failure")
	}
	if err := os.Mkdir(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	c.save(true)
	if c.saved.failed {
		t.Error("it is not tried again")
	}
	left, _ := os.ReadDir(filepath.Dir(name))
	if len(left) != 1 {
		t.Errorf("%v is left", left)
	}
}

// TestPut: what a file asks for is there from the start; a store's value wins.
func TestPut(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "page")
	if err := os.WriteFile(page, bytes.Repeat([]byte("page "), 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := vassal.Cache{Name: "mine", Items: 10, Blocks: 10, BlockSize: 5000, KeySize: 500, Put: []vassal.CacheItem{{Key: "k", Value: "v"}, {Key: page, File: true}}}
	_, c := one(t, cfg)
	if value(c, "k") != "v" || len(value(c, page)) != 5000 {
		t.Error(content(c))
	}
	cfg.Put = []vassal.CacheItem{{Key: "page", File: true, Gzip: true}}
	s, err := New([]vassal.Cache{cfg}, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := value(s.Named(""), "page"); !strings.HasPrefix(got, "\x1f\x8b") || len(got) > 200 {
		t.Errorf("%d bytes", len(got))
	}
	for _, bad := range []vassal.CacheItem{{Key: dir, File: true}, {Key: dir + "/none", File: true}, {Key: page, File: true}} {
		bad.At = vassal.Origin{File: "a.ini", Line: 9}
		cfg.BlockSize, cfg.Put = 4999, []vassal.CacheItem{bad}
		_, err := New([]vassal.Cache{cfg}, "/", slog.New(slog.DiscardHandler))
		var p *vassal.Problem
		if !errors.As(err, &p) || p.Line != 9 {
			t.Errorf("%s: %v", bad.Key, err)
		}
	}
}

// FuzzStore: any file is read or refused; nothing of it leaves the bounds.
func FuzzStore(f *testing.F) {
	name := filepath.Join(f.TempDir(), "store")
	s, err := New([]vassal.Cache{stored(name)}, "/", slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	c := s.Named("")
	_ = c.Set("k", []byte("value"), Add, 0)
	_ = c.Set("e", bytes.Repeat([]byte("x"), 300), Add, time.Hour)
	c.save(true)
	whole, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	s.Close()
	f.Add(whole)
	f.Add(whole[:30])
	f.Add([]byte(magic + "12345678\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name := filepath.Join(t.TempDir(), "store")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := New([]vassal.Cache{stored(name)}, "/", slog.New(slog.DiscardHandler))
		if err != nil {
			return
		}
		defer s.Close()
		c := s.Named("")
		if c.n > 10 || c.blocks > 20 || len(c.after) > 20 || len(c.Keys()) > c.n {
			t.Errorf("%d items in %d blocks", c.n, c.blocks)
		}
		for _, k := range c.Keys() {
			if v, ok := c.Get(nil, k); !ok || len(v) == 0 || len(v) > 2000 {
				t.Errorf("%q: %d bytes", k, len(v))
			}
		}
	})
}

// TestRun: while it runs the store is written, and read when an older core wrote
// it; at the end it is written once more.
func TestRun(t *testing.T) {
	name := filepath.Join(t.TempDir(), "store")
	old, a := one(t, stored(name))
	_ = a.Set("k", []byte("v"), Add, 0)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan bool)
	go func() { old.Run(ctx); close(done) }()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(name); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the store is not written")
		}
	}
	fresh, b := one(t, stored(name))
	_ = a.Set("late", []byte("v"), Add, 0)
	stop()
	<-done
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	done = make(chan bool)
	go func() { fresh.Run(ctx); close(done) }()
	for deadline := time.Now().Add(20 * time.Second); content(b) != "k=v late=v "; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q", content(b))
		}
	}
	stop()
	<-done
}

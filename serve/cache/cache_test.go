package cache

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
	"liege/vassal"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// one makes a set of one cache; what is not set has the decoder's defaults.
func one(t testing.TB, c vassal.Cache) (*Set, *Cache) {
	t.Helper()
	if c.Name == "" {
		c.Name = "mine"
	}
	if c.BlockSize == 0 {
		c.BlockSize = 64 << 10
	}
	if c.Blocks == 0 {
		c.Blocks = int64(c.Items)
	}
	if c.KeySize == 0 {
		c.KeySize = 2048
	}
	s, err := New([]vassal.Cache{c}, "/", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, s.Named("")
}

func value(c *Cache, key string) string {
	b, _ := c.Get(nil, key)
	return string(b)
}

// TestLikeUWSGI: the results are those of uWSGI 2.0.21's Python functions, but
// that 6 items are 6 (there the first is reserved).
func TestLikeUWSGI(t *testing.T) {
	_, c := one(t, vassal.Cache{Items: 6, BlockSize: 100})
	for _, step := range []struct {
		got, want any
	}{
		{c.Set("a", []byte("1"), Add, 0), nil},
		{c.Set("a", []byte("2"), Add, 0), ErrExists},
		{value(c, "a"), "1"},
		{c.Set("a", []byte("3"), Update, 0), nil},
		{value(c, "a"), "3"},
		{c.Set("e", nil, Add, 0), ErrValue},
		{c.Set("", []byte("x"), Add, 0), ErrKey},
		{c.Set("big", make([]byte, 200), Add, 0), ErrValue},
		{c.Set(strings.Repeat("k", 2049), []byte("x"), Add, 0), ErrKey},
		{pair(c.Inc("n", 1, 0)), "1 <nil>"},
		{pair(c.Inc("n", 5, 0)), "6 <nil>"},
		{c.Num("n"), int64(6)},
		{value(c, "n"), "\x06\x00\x00\x00\x00\x00\x00\x00"},
		{pair(c.Mul("n", 3, 0)), "18 <nil>"},
		{pair(c.Dec("n", 8, 0)), "10 <nil>"},
		{pair(c.Div("n", 3, 0)), "3 <nil>"},
		{pair(c.Div("n", 0, 0)), "0 <nil>"},
		{pair(c.Inc("a", 1, 0)), "0 the value is not a number of 8 bytes"},
		{c.Num("a"), int64(0)},
		{c.Num("none"), int64(0)},
		{c.Del("zz"), false},
		{c.Del("n"), true},
		{c.Exists("n"), false},
		{c.Exists("a"), true},
		{fmt.Sprint(c.Keys()), "[a]"},
	} {
		if step.got != step.want {
			t.Errorf("%v, want %v", step.got, step.want)
		}
	}
	for i := range 7 {
		err := c.Set(fmt.Sprint("k", i), []byte("x"), Add, 0)
		if want := i >= 5; errors.Is(err, ErrFull) != want {
			t.Errorf("k%d: %v", i, err)
		}
	}
	if err := c.Set("a", []byte("still"), Update, 0); err != nil || value(c, "a") != "still" {
		t.Errorf("full caches can be updated: %v", err)
	}
	want := Stats{Name: "mine", KeySize: 2048, MaxItems: 6, Blocks: 6, BlockLen: 100, Items: 6, Hits: 6, Miss: 1, Full: 2}
	if d := cmp.Diff(want, c.Stats()); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	c.Clear()
	if len(c.Keys()) != 0 || value(c, "a") != "" || c.Set("a", []byte("1"), Add, 0) != nil {
		t.Error("after Clear")
	}
}

func pair(n int64, err error) string { return fmt.Sprint(n, " ", err) }

func TestNamed(t *testing.T) {
	var none *Set
	if none.Named("") != nil || none.All() != nil || none.Stats() != nil {
		t.Error("no set has a cache")
	}
	s, err := New([]vassal.Cache{{Name: "a", Items: 1, BlockSize: 1, Blocks: 1, KeySize: 1}, {Name: "b", Items: 1, BlockSize: 1, Blocks: 1, KeySize: 1}}, "/", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Named("").Name() != "a" || s.Named("b").Name() != "b" || s.Named("c") != nil || len(s.Stats()) != 2 {
		t.Error("names")
	}
}

// TestExpiry: what has expired is gone at once, makes room, and is swept.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := one(t, vassal.Cache{Items: 2, LastMod: true})
		_ = c.Set("short", []byte("x"), Add, 10*time.Second)
		_ = c.Set("long", []byte("x"), Add, time.Hour)
		if _, at, _ := c.Lookup(nil, "short"); !at.Equal(time.Unix(time.Now().Unix()+10, 0)) {
			t.Error("expires at", at)
		}
		if err := c.Set("more", []byte("x"), Add, 0); !errors.Is(err, ErrFull) {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		if value(c, "short") != "" || c.Exists("short") || value(c, "long") != "x" {
			t.Error("expired items are returned")
		}
		if err := c.Set("more", []byte("x"), Add, time.Second); err != nil {
			t.Error("expired items take room:", err)
		}
		if mod := c.Stats().LastMod; mod != time.Now().Unix() {
			t.Error("changed at", mod)
		}
		time.Sleep(time.Second)
		if n := c.Sweep(); n != 1 {
			t.Errorf("%d swept", n)
		}
		time.Sleep(2 * time.Hour)
		if n := c.Sweep(); n != 1 || c.Sweep() != 0 || c.Stats().Items != 0 {
			t.Errorf("%d swept, %d left", n, c.Stats().Items)
		}
		// A number keeps the time to live it began with.
		_, _ = c.Inc("n", 1, 10*time.Second)
		time.Sleep(6 * time.Second)
		_, _ = c.Inc("n", 1, 10*time.Second)
		time.Sleep(6 * time.Second)
		if c.Exists("n") {
			t.Error("inc made it live longer")
		}
	})
}

func TestNoExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := one(t, vassal.Cache{Items: 2, NoExpire: true})
		_ = c.Set("a", []byte("x"), Add, time.Second)
		time.Sleep(time.Hour)
		if c.Sweep() != 0 || value(c, "a") != "x" {
			t.Error("it expired")
		}
	})
}

func TestLRU(t *testing.T) {
	_, c := one(t, vassal.Cache{Items: 3, Blocks: 4, BlockSize: 10, Bitmap: true, PurgeLRU: true})
	for _, k := range []string{"a", "b", "c"} {
		_ = c.Set(k, []byte("x"), Add, 0)
	}
	_ = value(c, "a") // now b is the oldest
	_ = c.Set("d", []byte("x"), Add, 0)
	keys := c.Keys()
	slices.Sort(keys)
	if fmt.Sprint(keys) != "[a c d]" || c.Stats().Full != 1 {
		t.Errorf("%v, %d times full", keys, c.Stats().Full)
	}
	if err := c.Set("d", bytes.Repeat([]byte("y"), 40), Update, 0); err != nil || fmt.Sprint(c.Keys()) != "[d]" {
		t.Errorf("%v: %v", err, c.Keys())
	}
	if err := c.Set("e", bytes.Repeat([]byte("y"), 35), Add, 0); err != nil || fmt.Sprint(c.Keys()) != "[e]" {
		t.Errorf("%v: %v", err, c.Keys())
	}
}

func TestClearOnFull(t *testing.T) {
	_, c := one(t, vassal.Cache{Items: 2, ClearOnFull: true})
	for i := range 5 {
		if err := c.Set(fmt.Sprint(i), []byte("x"), Add, 0); err != nil {
			t.Fatal(err)
		}
	}
	if fmt.Sprint(c.Keys()) != "[4]" || c.Stats().Full != 2 {
		t.Errorf("%v, %d times full", c.Keys(), c.Stats().Full)
	}
}

// TestModel does the same to a cache and to a map, many times.
func TestModel(t *testing.T) {
	const items, blocks, size = 20, 50, 7
	_, c := one(t, vassal.Cache{Items: items, Blocks: blocks, BlockSize: size, Bitmap: true, KeySize: 10})
	model := map[string]string{}
	used := func() (n int) {
		for _, v := range model {
			n += (len(v) + size - 1) / size
		}
		return n
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for step := range 20000 {
		k := fmt.Sprint("k", rng.IntN(30))
		v := strings.Repeat(string(rune('a'+rng.IntN(26))), 1+rng.IntN(60))
		was, have := model[k]
		switch op := rng.IntN(10); {
		case op < 6:
			how := How(rng.IntN(2))
			more := (len(v)+size-1)/size - (len(was)+size-1)/size
			fits := used()+more <= blocks && (have || len(model) < items)
			var want error
			switch {
			case have && how == Add:
				want = ErrExists
			case !fits:
				want = ErrFull
			default:
				model[k] = v
			}
			if err := c.Set(k, []byte(v), how, 0); !errors.Is(err, want) {
				t.Fatalf("step %d: %v, want %v", step, err, want)
			}
		case op < 8:
			if c.Del(k) != have {
				t.Fatalf("step %d: del", step)
			}
			delete(model, k)
		case op == 8 && rng.IntN(100) == 0:
			c.Clear()
			clear(model)
		}
		if got := value(c, k); got != model[k] {
			t.Fatalf("step %d: %q, want %q", step, got, model[k])
		}
		if st := c.Stats(); st.Items != len(model) || c.blocks != int64(used()) {
			t.Fatalf("step %d: %d items, %d blocks; want %d, %d", step, st.Items, c.blocks, len(model), used())
		}
	}
}

// TestCollisions: items of one hash are told apart, and unlinked from the
// beginning, the middle and the end.
func TestCollisions(t *testing.T) {
	_, c := one(t, vassal.Cache{Items: 10})
	keys := []string{"a", "b", "c", "d"}
	for _, k := range keys {
		_ = c.Set(k, []byte(k), Add, 0)
	}
	c.index = map[uint64]uint32{} // all of the hash of "a"
	for i := range c.items {
		c.items[i].hash, c.items[i].next = 1, none
		if i > 0 {
			c.items[i].next = uint32(i - 1)
		}
		c.index[1] = uint32(i)
	}
	for _, i := range []uint32{1, 3, 0, 2} {
		c.drop(i)
		left := 0
		for j, ok := c.index[1]; ok && j != none; j = c.items[j].next {
			left++
		}
		if left != c.n {
			t.Fatalf("%d in the chain, %d in the cache", left, c.n)
		}
	}
	if len(c.index) != 0 {
		t.Error("the index is not empty")
	}
}

func TestConcurrent(t *testing.T) {
	_, c := one(t, vassal.Cache{Items: 50, BlockSize: 16, PurgeLRU: true})
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 500 {
				k := fmt.Sprint((g*31 + i) % 90)
				_ = c.Set(k, []byte(k), Update, time.Hour)
				if v, ok := c.Get(nil, k); ok && string(v) != k {
					t.Errorf("%s has the value %s", k, v)
				}
				_, _ = c.Inc("n", 1, 0)
			}
		})
	}
	all.Wait()
}

// TestGetAllocates: nothing into a buffer that has room.
func TestGetAllocates(t *testing.T) {
	_, c := one(t, vassal.Cache{Items: 50})
	_ = c.Set("key", make([]byte, 1000), Add, 0)
	buf := make([]byte, 0, 2000)
	val := make([]byte, 900)
	if n := testing.AllocsPerRun(100, func() { buf, _ = c.Get(buf[:0], "key") }); n != 0 {
		t.Errorf("Get allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { _ = c.Set("key", val, Update, 0) }); n != 0 {
		t.Errorf("Set allocates %v times", n)
	}
}

func BenchmarkGet(b *testing.B) {
	_, c := one(b, vassal.Cache{Items: 1000})
	for i := range 1000 {
		_ = c.Set(fmt.Sprint("some/key/", i), make([]byte, 4000), Add, 0)
	}
	buf := make([]byte, 0, 4000)
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = c.Get(buf[:0], "some/key/700")
	}
}

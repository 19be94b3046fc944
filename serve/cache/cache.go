package cache

import (
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// Cache is one cache. It is a part of a Set.
type Cache struct {
	cfg  vassal.Cache
	log  *slog.Logger
	seed maphash.Seed // of this process: a client that chooses keys cannot choose their places

	mu      sync.Mutex
	keys    []byte            // item i's key begins at i x KeySize
	data    []byte            // block b begins at b x BlockSize
	items   []item            // those that were ever used
	index   map[uint64]uint32 // hash → the first item with it
	after   []uint32          // of each block that was ever used: the next of the same value, or of the free ones
	free    uint32            // the first free item; none: nothing is free but what was never used
	room    uint32            // the first free block
	blocks  int64             // that are in use
	n       int               // items that are in use
	newest  uint32            // LRU: the most recently used
	oldest  uint32
	soonest int64 // an upper bound says: nothing expires before; 0: nothing expires
	full    uint64
	hits    uint64
	miss    uint64
	told    time.Time // of the last line about a full cache
	change  uint64    // counts changes
	mod     int64     // time of the last one, if stats want it

	saved persistence
}

// item is one key and its value. There is no pointer in it.
type item struct {
	hash    uint64
	size    int64 // of the value, in bytes
	expires int64 // unix time; 0: never
	hits    uint64
	keyLen  uint32 // 0: free
	block   uint32 // the first of its value
	next    uint32 // of the same hash; or the next free item
	newer   uint32 // LRU
	older   uint32
}

// none is no item, or no block.
const none = math.MaxUint32

// What a cache may not do.
var (
	ErrExists    = errors.New("the key is there")
	ErrFull      = errors.New("the cache is full")
	ErrKey       = errors.New("a key has at least one byte, and at most the cache's keysize")
	ErrValue     = errors.New("a value has at least one byte, and at most a block; with bitmap all blocks")
	ErrNotNumber = errors.New("the value is not a number of 8 bytes")
)

func newCache(cfg *vassal.Cache, log *slog.Logger) (*Cache, error) {
	c := &Cache{cfg: *cfg, log: log, seed: maphash.MakeSeed(), index: map[uint64]uint32{}, free: none, room: none, newest: none, oldest: none}
	var err error
	if c.keys, err = reserve(int64(cfg.Items) * int64(cfg.KeySize)); err == nil {
		c.data, err = reserve(cfg.Blocks * cfg.BlockSize)
	}
	if err != nil {
		c.close()
		return nil, problem(cfg.At, "cache2", fmt.Errorf("%s: %w", cfg.Name, err))
	}
	return c, nil
}

// reserve takes addresses; the kernel gives memory to the pages that are used.
func reserve(n int64) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("%d bytes of memory: %w", n, err)
	}
	return b, nil
}

func (c *Cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range []*[]byte{&c.keys, &c.data} {
		if *m != nil {
			_ = unix.Munmap(*m) // it is ours, whole
			*m = nil
		}
	}
	c.items, c.index, c.n = nil, map[uint64]uint32{}, 0
}

// Name is what the file calls the cache.
func (c *Cache) Name() string { return c.cfg.Name }

// Largest is the longest value that it takes, in bytes.
func (c *Cache) Largest() int64 { return c.cfg.Largest() }

// key is the key of an item, where it lies.
func (c *Cache) key(i uint32) []byte {
	at := int64(i) * int64(c.cfg.KeySize)
	return c.keys[at : at+int64(c.items[i].keyLen)]
}

// now is the time that expiry goes by.
func now() int64 { return time.Now().Unix() }

// find is the item of a key. What has expired is not there any more.
func (c *Cache) find(key string) (uint32, bool) {
	if c.n == 0 {
		return none, false
	}
	i, ok := c.index[maphash.String(c.seed, key)]
	for ; ok && i != none; i = c.items[i].next {
		if string(c.key(i)) != key {
			continue
		}
		if e := c.items[i].expires; e != 0 && e <= now() {
			c.drop(i)
			return none, false
		}
		return i, true
	}
	return none, false
}

// Get appends the value of key to dst. It allocates nothing if dst has room.
func (c *Cache) Get(dst []byte, key string) ([]byte, bool) {
	dst, _, ok := c.Lookup(dst, key)
	return dst, ok
}

// Lookup is Get, and says when the item expires: the zero time if never.
func (c *Cache) Lookup(dst []byte, key string) ([]byte, time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.find(key)
	if !ok {
		c.miss++
		return dst, time.Time{}, false
	}
	c.use(i)
	return c.read(dst, i), at(c.items[i].expires), true
}

func at(unix int64) time.Time {
	if unix == 0 {
		return time.Time{}
	}
	return time.Unix(unix, 0)
}

// use counts a hit.
func (c *Cache) use(i uint32) {
	c.hits++
	c.items[i].hits++
	c.touch(i)
}

// touch makes an item the most recently used.
func (c *Cache) touch(i uint32) {
	if !c.cfg.PurgeLRU || c.newest == i {
		return
	}
	c.unlink(i)
	c.link(i)
}

// Exists reports whether key has a value. It is no hit.
func (c *Cache) Exists(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.find(key)
	return ok
}

// How is how Set goes about a key that is there.
type How uint8

// The ways.
const (
	Add    How = 0 // it fails
	Update How = 1 // the value is replaced, and the time to live
)

// Set gives key a value for a time, of which seconds count; 0 is for ever. A
// value that cannot be stored leaves the one before.
func (c *Cache) Set(key string, value []byte, how How, ttl time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.set(key, value, how, c.deadline(ttl))
}

// deadline is the time when what lives for ttl has expired.
func (c *Cache) deadline(ttl time.Duration) int64 {
	if ttl <= 0 || c.cfg.NoExpire {
		return 0
	}
	return now() + int64((ttl+time.Second-1)/time.Second)
}

func (c *Cache) set(key string, value []byte, how How, expires int64) error {
	switch {
	case key == "" || len(key) > c.cfg.KeySize:
		return ErrKey
	case len(value) == 0 || int64(len(value)) > c.cfg.Largest():
		return ErrValue
	case c.data == nil: // closed
		return ErrFull
	}
	i, ok := c.find(key)
	if ok && how != Update {
		return ErrExists
	}
	old := int64(0)
	if ok {
		old = c.blocksFor(c.items[i].size)
	}
	if !c.makeRoom(i, ok, c.blocksFor(int64(len(value)))-old) {
		return ErrFull
	}
	if ok {
		c.release(i)
	} else {
		i = c.insert(key)
	}
	c.write(i, value)
	c.items[i].expires = expires
	c.touch(i)
	if expires != 0 && (c.soonest == 0 || expires < c.soonest) {
		c.soonest = expires
	}
	c.changed()
	return nil
}

func (c *Cache) changed() {
	c.change++
	if c.cfg.LastMod {
		c.mod = now()
	}
}

// makeRoom sees to it that there is an item, unless there is one already, and
// that many more blocks.
func (c *Cache) makeRoom(i uint32, have bool, blocks int64) bool {
	fits := func() bool { return (have || c.n < c.cfg.Items) && c.blocks+blocks <= c.cfg.Blocks }
	if fits() {
		return true
	}
	c.sweep(i)
	if fits() {
		return true
	}
	c.full++
	c.tell()
	switch {
	case c.cfg.PurgeLRU:
		if have {
			c.touch(i) // it stays: it is the one that is written
		}
		for c.oldest != none && c.oldest != i && !fits() {
			c.drop(c.oldest)
		}
	case c.cfg.ClearOnFull:
		c.clear(i)
	}
	return fits()
}

// tell says at most once a minute that a cache is full.
func (c *Cache) tell() {
	if c.cfg.IgnoreFull || time.Since(c.told) < time.Minute {
		return
	}
	c.told = time.Now()
	c.log.Warn("cache: full", "cache", c.cfg.Name, "items", c.n, "blocks", c.blocks, "times", c.full, "lru", c.cfg.PurgeLRU)
}

// Del takes a key out, and reports whether it was there.
func (c *Cache) Del(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.find(key)
	if ok {
		c.drop(i)
	}
	return ok
}

// Clear takes everything out.
func (c *Cache) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear(none)
	for _, m := range [][]byte{c.keys, c.data} {
		if len(m) > 0 {
			_ = unix.Madvise(m, unix.MADV_DONTNEED) // what is not given back is used again
		}
	}
}

// clear takes everything out but one.
func (c *Cache) clear(but uint32) {
	for i := range c.items {
		if uint32(i) != but && c.items[i].keyLen != 0 {
			c.drop(uint32(i))
		}
	}
	if c.n == 0 {
		c.soonest = 0
	}
}

// Keys are the keys that are there, in no order.
func (c *Cache) Keys() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]string, 0, c.n)
	t := now()
	for i := range c.items {
		if e := &c.items[i]; e.keyLen != 0 && (e.expires == 0 || e.expires > t) {
			out = append(out, string(c.key(uint32(i))))
		}
	}
	return out
}

// Sweep takes out what has expired, and says how much that was.
func (c *Cache) Sweep() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sweep(none)
}

// sweep takes out what has expired, but for one item.
func (c *Cache) sweep(but uint32) (freed int) {
	t := now()
	if c.soonest == 0 || c.soonest > t {
		return 0
	}
	c.soonest = 0
	for i := range c.items {
		switch e := &c.items[i]; {
		case e.keyLen == 0 || e.expires == 0:
		case e.expires <= t && uint32(i) != but:
			c.drop(uint32(i))
			freed++
		case c.soonest == 0 || e.expires < c.soonest:
			c.soonest = e.expires
		}
	}
	return freed
}

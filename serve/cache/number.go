package cache

import (
	"encoding/binary"
	"time"
)

// numberSize is the size of a number, in bytes.
const numberSize = 8

// Inc adds n to the number of key, which begins as math_initial, and returns
// what it is now. The time to live holds for a number that was not there. What
// is too large wraps, as in C.
func (c *Cache) Inc(key string, n int64, ttl time.Duration) (int64, error) {
	return c.number(key, ttl, func(v int64) int64 { return v + n })
}

// Dec subtracts n.
func (c *Cache) Dec(key string, n int64, ttl time.Duration) (int64, error) {
	return c.number(key, ttl, func(v int64) int64 { return v - n })
}

// Mul multiplies by n.
func (c *Cache) Mul(key string, n int64, ttl time.Duration) (int64, error) {
	return c.number(key, ttl, func(v int64) int64 { return v * n })
}

// Div divides by n; by 0 it is 0, as in uWSGI.
func (c *Cache) Div(key string, n int64, ttl time.Duration) (int64, error) {
	return c.number(key, ttl, func(v int64) int64 {
		if n == 0 {
			return 0
		}
		return v / n
	})
}

func (c *Cache) number(key string, ttl time.Duration, f func(int64) int64) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, expires := c.cfg.Initial, c.deadline(ttl)
	if i, ok := c.find(key); ok {
		if c.items[i].size != numberSize {
			return 0, ErrNotNumber
		}
		was, expires = c.decode(i), c.items[i].expires
	}
	v := f(was)
	var b [numberSize]byte
	binary.LittleEndian.PutUint64(b[:], uint64(v))
	return v, c.set(key, b[:], Update, expires)
}

// Num is the number of key: 0 if there is none, or another value.
func (c *Cache) Num(key string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.find(key)
	if !ok {
		c.miss++
		return 0
	}
	c.use(i)
	if c.items[i].size != numberSize {
		return 0
	}
	return c.decode(i)
}

func (c *Cache) decode(i uint32) int64 {
	var b [numberSize]byte
	return Number(c.read(b[:0], i))
}

// Number is the number that a value is; 0 if it is none.
func Number(value []byte) int64 {
	if len(value) != numberSize {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(value))
}

package cache

import "hash/maphash"

// blocksFor is how many blocks a value of n bytes takes.
func (c *Cache) blocksFor(n int64) int64 { return (n + c.cfg.BlockSize - 1) / c.cfg.BlockSize }

// insert gives key an item. There is room for one.
func (c *Cache) insert(key string) uint32 {
	i := c.free
	if i != none {
		c.free = c.items[i].next
	} else {
		i = uint32(len(c.items))
		c.items = append(c.items, item{})
	}
	h := maphash.String(c.seed, key)
	first, ok := c.index[h]
	if !ok {
		first = none
	}
	c.items[i] = item{hash: h, keyLen: uint32(len(key)), block: none, next: first, newer: none, older: none}
	copy(c.key(i), key)
	c.index[h] = i
	c.n++
	c.link(i)
	return i
}

// drop takes an item out.
func (c *Cache) drop(i uint32) {
	c.release(i)
	c.unlink(i)
	e := &c.items[i]
	if first := c.index[e.hash]; first != i {
		for c.items[first].next != i {
			first = c.items[first].next
		}
		c.items[first].next = e.next
	} else if e.next != none {
		c.index[e.hash] = e.next
	} else {
		delete(c.index, e.hash)
	}
	*e = item{next: c.free}
	c.free = i
	c.n--
	c.changed()
}

// write stores the value of an item that has none. There are enough blocks.
func (c *Cache) write(i uint32, value []byte) {
	e := &c.items[i]
	e.size = int64(len(value))
	last := uint32(none)
	for len(value) > 0 {
		b := c.block()
		n := copy(c.data[int64(b)*c.cfg.BlockSize:][:c.cfg.BlockSize], value)
		value = value[n:]
		if last == none {
			e.block = b
		} else {
			c.after[last] = b
		}
		c.after[b], last = none, b
	}
	c.blocks += c.blocksFor(e.size)
}

// block takes a free block.
func (c *Cache) block() uint32 {
	b := c.room
	if b == none {
		c.after = append(c.after, none)
		return uint32(len(c.after) - 1)
	}
	c.room = c.after[b]
	return b
}

// release frees the blocks of an item.
func (c *Cache) release(i uint32) {
	e := &c.items[i]
	for b := e.block; b != none; {
		next := c.after[b]
		c.after[b], c.room = c.room, b
		b = next
	}
	c.blocks -= c.blocksFor(e.size)
	e.block, e.size = none, 0
}

// read appends the value of an item to dst.
func (c *Cache) read(dst []byte, i uint32) []byte {
	left := c.items[i].size
	for b := c.items[i].block; b != none; b = c.after[b] {
		n := min(left, c.cfg.BlockSize)
		dst = append(dst, c.data[int64(b)*c.cfg.BlockSize:][:n]...)
		left -= n
	}
	return dst
}

// link makes an item the most recently used.
func (c *Cache) link(i uint32) {
	if !c.cfg.PurgeLRU {
		return
	}
	c.items[i].older, c.items[i].newer = c.newest, none
	if c.newest != none {
		c.items[c.newest].newer = i
	} else {
		c.oldest = i
	}
	c.newest = i
}

// unlink takes an item out of the order of use.
func (c *Cache) unlink(i uint32) {
	if !c.cfg.PurgeLRU {
		return
	}
	e := &c.items[i]
	if e.newer != none {
		c.items[e.newer].older = e.older
	} else {
		c.newest = e.older
	}
	if e.older != none {
		c.items[e.older].newer = e.newer
	} else {
		c.oldest = e.newer
	}
	e.newer, e.older = none, none
}

package stage

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
)

// Program is a filter in classic BPF. It travels as the kernel takes it, an array
// of struct sock_filter in this machine's byte order, in base64: the stage of
// every start reads a thousand instructions, and as objects of JSON they took a
// third of a millisecond.
type Program []Filter

// filterBytes is the size of struct sock_filter.
const filterBytes = 8

// MarshalText implements encoding.TextMarshaler.
func (p Program) MarshalText() ([]byte, error) {
	b := make([]byte, 0, filterBytes*len(p))
	for _, f := range p {
		b = binary.NativeEndian.AppendUint16(b, f.Code)
		b = append(b, f.Jt, f.Jf)
		b = binary.NativeEndian.AppendUint32(b, f.K)
	}
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Program) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil {
		return err
	}
	n := len(b) / filterBytes
	if len(b)%filterBytes != 0 || n > maxFilters {
		return errors.New("not a filter: it has no whole number of instructions, or too many")
	}
	*p = make(Program, 0, n)
	for ; len(b) > 0; b = b[filterBytes:] {
		*p = append(*p, Filter{
			Code: binary.NativeEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.NativeEndian.Uint32(b[4:]),
		})
	}
	return nil
}

package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var errBadMessage = errors.New("malformed gRPC message")

// Values of grpc.health.v1.HealthCheckResponse.ServingStatus.
var servingStatus = map[uint64]string{0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

const serving = 1

// grpcHealth calls grpc.health.v1.Health/Check over HTTP/2 without TLS. The two
// messages have one field each, so no gRPC library is needed. Only SERVING
// passes. Source: github.com/grpc/grpc v1.74.0 doc/PROTOCOL-HTTP2.md and
// doc/health-checking.md.
func (p *Prober) grpcHealth(ctx context.Context, target Target, action *corev1.GRPCAction) (Result, string, error) {
	address, err := address(target, "", intstr.FromInt32(action.Port))
	if err != nil {
		return Unknown, "", err
	}
	service := ""
	if action.Service != nil {
		service = *action.Service
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/grpc.health.v1.Health/Check",
		bytes.NewReader(healthRequest(service)))
	if err != nil {
		return Unknown, "", fmt.Errorf("gRPC request: %w", err)
	}
	request.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {p.config.UserAgent}}
	response, err := p.grpc.RoundTrip(request)
	if err != nil {
		return Failure, err.Error(), nil
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxOutput))
	if err != nil {
		return Failure, err.Error(), nil
	}
	if response.StatusCode != http.StatusOK {
		return Failure, fmt.Sprintf("gRPC probe: HTTP %d", response.StatusCode), nil
	}
	// A call that failed at once has its status in the headers.
	code, message := response.Trailer.Get("Grpc-Status"), response.Trailer.Get("Grpc-Message")
	if code == "" {
		code, message = response.Header.Get("Grpc-Status"), response.Header.Get("Grpc-Message")
	}
	if code != "0" {
		return Failure, fmt.Sprintf("gRPC probe: status %q: %s", code, message), nil
	}
	status, err := healthStatus(body)
	if err != nil {
		return Failure, "gRPC probe: " + err.Error(), nil
	}
	name, ok := servingStatus[status]
	if !ok {
		name = fmt.Sprint(status)
	}
	if status != serving {
		return Failure, fmt.Sprintf("service unhealthy (responded with %q)", name), nil
	}
	return Success, "service healthy", nil
}

// healthRequest is a frame (no compression, length) with HealthCheckRequest:
// field 1, a string.
func healthRequest(service string) []byte {
	var message []byte
	if service != "" {
		message = append(message, 1<<3|2)
		message = binary.AppendUvarint(message, uint64(len(service)))
		message = append(message, service...)
	}
	frame := make([]byte, 5, 5+len(message))
	binary.BigEndian.PutUint32(frame[1:], uint32(len(message)))
	return append(frame, message...)
}

// healthStatus reads field 1, a number, of the HealthCheckResponse in a frame;
// it is 0 when left out. Unknown fields are skipped.
func healthStatus(frame []byte) (status uint64, err error) {
	if len(frame) < 5 || frame[0] != 0 || uint64(binary.BigEndian.Uint32(frame[1:])) != uint64(len(frame)-5) {
		return 0, errBadMessage
	}
	for message := frame[5:]; len(message) > 0; {
		tag, n := binary.Uvarint(message)
		if n <= 0 {
			return 0, errBadMessage
		}
		message = message[n:]
		skip := uint64(0)
		switch tag & 7 {
		case 0:
			value, n := binary.Uvarint(message)
			if n <= 0 {
				return 0, errBadMessage
			}
			if tag>>3 == 1 {
				status = value
			}
			skip = uint64(n)
		case 1:
			skip = 8
		case 2:
			length, n := binary.Uvarint(message)
			if n <= 0 {
				return 0, errBadMessage
			}
			message, skip = message[n:], length
		case 5:
			skip = 4
		default:
			return 0, errBadMessage
		}
		if skip > uint64(len(message)) {
			return 0, errBadMessage
		}
		message = message[skip:]
	}
	return status, nil
}

// gRPC for Go: a server with its health service, and clients that wait for news, or ask again and again.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	api "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

// Reports ever new states of "ticks", and on standard output its port when somebody asks.
func serve(address, port string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	state := health.NewServer()
	go func() {
		for i := 0; ; i++ {
			state.SetServingStatus("ticks", api.HealthCheckResponse_ServingStatus(1+i%2))
			time.Sleep(50 * time.Millisecond)
		}
	}()
	asked := func(server interface{}, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		fmt.Println(port)
		return next(server, stream)
	}
	server := grpc.NewServer(grpc.StreamInterceptor(asked))
	api.RegisterHealthServer(server, state)
	return server.Serve(listener)
}

func main() {
	what, address := os.Args[1], net.JoinHostPort(os.Args[2], os.Args[3])
	if what == "serve" {
		fmt.Println(serve(address, os.Args[3]))
		return
	}
	options := []grpc.DialOption{grpc.WithInsecure(), grpc.WithBlock()}
	if len(os.Args) > 4 {
		// Of HTTP/2. With it gRPC sets a user timeout.
		timeout, _ := time.ParseDuration(os.Args[4])
		options = append(options, grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Minute, Timeout: timeout}))
	}
	connection, err := grpc.Dial(address, options...)
	client, background := api.NewHealthClient(connection), context.Background()
	ask := func() error {
		answer, err := client.Check(background, &api.HealthCheckRequest{})
		if what == "ask" {
			fmt.Println(answer, err)
		}
		return err
	}
	switch what {
	case "ask":
		// Once, and once more after a line.
		if ask() == nil {
			bufio.NewReader(os.Stdin).ReadString('\n')
			ask()
		}
		return
	case "watch":
		// Nothing new comes.
		stream, err := client.Watch(background, &api.HealthCheckRequest{})
		for err == nil {
			_, err = stream.Recv()
		}
		fmt.Printf("%s\t%v\n", os.Args[3], err)
	case "poll":
		client.Watch(background, &api.HealthCheckRequest{})
		for err == nil {
			err = ask()
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Printf("%s\t%v\n", os.Args[3], err)
	}
}

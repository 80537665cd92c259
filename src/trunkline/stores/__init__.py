"""Stores: what is kept between requests, one package for each database engine, all behind `ports.stores`."""

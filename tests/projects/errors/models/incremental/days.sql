{{ config(event_time='day') }}
select cast('2024-01-01' as timestamp) as day, '1' as label
union all
select cast('2025-01-02' as timestamp) as day, 'two' as label
